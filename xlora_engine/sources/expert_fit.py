"""Whether an expert fits a base model, and under which names."""

import inspect
from dataclasses import replace

import torch
from torch import Tensor, nn

from formats.module_names import loaded_names, placement
from xlora_engine.errors import BaseUnsupported, ExpertMismatch
from xlora_engine.sources.adapter_weights import Expert, with_plain_patterns


def placed(expert: Expert, base: nn.Module) -> Expert:
    """The expert with each update under the name that its module has in this base model.

    Updates of parts for pictures and sounds that the base model has not got are left out; others that it
    lacks stay as they are, for `check_fits` to refuse.
    """
    loaded = [path for path, _ in base.named_modules() if path]
    found = placement(expert.updates, loaded)
    if not found.left_out and all(path == name for path, name in found.names.items()):
        return expert
    names = {path: found.names.get(path, path) for path in expert.updates if path not in found.left_out}
    copies = loaded_names(expert.base_copies, loaded)
    return replace(
        expert,
        config=with_plain_patterns(expert.config, names, expert.name),
        updates={name: expert.updates[path] for path, name in names.items()},
        base_copies={copies.get(path, path): copy for path, copy in expert.base_copies.items()},
    )


def check_fits(expert: Expert, base: nn.Module) -> None:
    """Refuse an expert whose modules the base model lacks, or has in another shape.

    Raises:
        ExpertMismatch: naming the first such module, the shape expected and the shape found; or the expert
            holds a weight of the base model that is not this one's.
        BaseUnsupported: the module's weights are not in memory.
    """
    modules = dict(base.named_modules())
    for path, update in expert.updates.items():
        if path not in modules:
            raise ExpertMismatch(
                f"expert {expert.name!r} changes module {path!r}, which {type(base).__name__} does not have; "
                "it was trained on another base model"
            )
        if update.is_embedding is not isinstance(modules[path], nn.Embedding):
            raise ExpertMismatch(
                f"expert {expert.name!r} changes {path!r} as {_KINDS[update.is_embedding]}, where there is "
                f"a {type(modules[path]).__name__}; it was trained on another base model"
            )
        if any(parameter.is_meta for parameter in modules[path].parameters()):
            raise BaseUnsupported(
                f"the weights of {path!r} are on no device, as those are that accelerate offloads; load the "
                "base model with a device_map that keeps all of it on devices"
            )
        expected = _widths(modules[path])
        found = (update.A.shape[1], update.B.shape[0])
        if expected is None:
            raise ExpertMismatch(
                f"expert {expert.name!r} changes {path!r}, a {type(modules[path]).__name__}, which is "
                "neither a linear layer nor an embedding of tokens; train it again without this module"
            )
        if expected != found:
            raise ExpertMismatch(
                f"expert {expert.name!r} maps {found[0]} to {found[1]} at {path!r}, where the base maps "
                f"{expected[0]} to {expected[1]}; it was trained on another base model"
            )
    for path, copy in expert.base_copies.items():
        if path not in modules or not _is_copy(copy, getattr(modules[path], "weight", None)):
            raise ExpertMismatch(
                f"expert {expert.name!r} holds a weight for {path!r} itself, which is not the base model's; "
                "if it is the right base, save the adapter with save_embedding_layers=False"
            )


def _is_copy(copy: Tensor, weight: object) -> bool:
    """Whether a weight is as saved, whichever of the two was rounded to a shorter dtype since."""
    # A quantised weight is a tensor of a class of its own: what it was before is not known.
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor or copy.shape != weight.shape:
        return False
    shorter = min(copy.dtype, weight.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(copy.to(shorter), weight.detach().cpu().to(shorter))


_KINDS = {True: "an embedding", False: "a linear layer"}


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """`(d_in, d_out)` of a linear layer or embedding, by the attributes of its class; None of any other."""
    if isinstance(module, nn.Embedding) and len(inspect.signature(type(module).forward).parameters) != 2:
        return None  # OPT's positions are looked up by a mask, and more
    for d_in, d_out in (("in_features", "out_features"), ("nx", "nf"), ("num_embeddings", "embedding_dim")):
        if hasattr(module, d_in) and hasattr(module, d_out):
            return int(getattr(module, d_in)), int(getattr(module, d_out))
    return None
