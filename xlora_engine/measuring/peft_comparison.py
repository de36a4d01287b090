"""Whether an adapter computes here what it computes in PEFT, the program that it was made for.

Module by module, both have to come to the same factors and the same scale: equal numbers, not near ones, at
the cost of the adapter alone whatever the base model's size. Where the base model is small enough to run, the
logits are compared too.
"""

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import peft
import torch
from jaxtyping import Float
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from formats.patterns import PatternRefused, by_patterns
from formats.peft import CONFIG_FILE, KEY_PREFIX, WEIGHTS_FILE
from formats.target_modules import targets_of
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ExpertMismatch
from xlora_engine.measuring.probe import effect_of, probe_ids
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.mixture.wrapping import replace_module
from xlora_engine.sources.adapter_weights import Expert, read_expert
from xlora_engine.sources.base_model import load_config
from xlora_engine.sources.expert_fit import check_fits, placed
from xlora_engine.sources.language_model import language_model_of

#: Largest difference of logits that rounding explains, as a share of the largest logit: both add the same
#: products in float32, in another order.
MOST_DIFFERENCE = 1e-4

#: What PEFT raises for a configuration or weights that it cannot load.
_PEFT_REFUSES = (ValueError, RuntimeError, KeyError, TypeError, AttributeError)

#: PEFT's name of an adapter that is given none.
_NAME = "default"


@dataclass(frozen=True, kw_only=True)
class PeftComparison:
    """What was compared, and found equal."""

    #: Modules in which PEFT has the same factors and scale.
    modules: int
    #: Largest difference of logits; None where the base model was not run.
    logit_difference: float | None = None
    #: Of the adapter, in nats: see `effect_score`.
    effect: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As an adapter's record holds it, the effect apart."""
        run = {} if self.logit_difference is None else {"largest_logit_difference": self.logit_difference}
        return {"with": f"peft {peft.__version__}", "modules_equal": self.modules, **run}


def weightless(folder: Path) -> PreTrainedModel:
    """The base model of a folder's configuration with parameters of the right shapes that take no memory."""
    model_class, config = language_model_of(load_config(folder))
    with torch.device("meta"):
        model = model_class(config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # One number in all places: PEFT puts factors where the weight is, and reads nothing of it.
            empty = torch.zeros(1, dtype=parameter.dtype).expand(parameter.shape)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
    model.eval()
    return model


def compare_with_peft(
    base: PreTrainedModel, stored: Path, *, name: str, given: Path | None = None, runs: bool = False
) -> PeftComparison:
    """Compare the adapter folder `stored` with what PEFT makes of it; the base model is left as it was.

    `given` is the adapter_config.json that the adapter came with, if PEFT is to read that one instead. With
    `runs` the logits are compared too, on a base model in float32.

    Raises:
        ExpertMismatch: PEFT computes something else, or cannot load it.
        NoEffect: it changes nothing.
        ExpertInvalid: it cannot be read, does not fit, or makes the logits NaN or infinite.
    """
    expert = placed(read_expert(stored, name), base)
    check_fits(expert, base)
    reference = None
    with _peft(base, stored, given, name) as model:
        modules = _require_equal(expert, model)
        if runs:
            reference = _logits(model, base)
    if reference is None:
        return PeftComparison(modules=modules)
    return _run(base, expert, reference, modules)


@torch.no_grad()
def _run(
    base: PreTrainedModel, expert: Expert, reference: Float[Tensor, "batch seq vocabulary"], modules: int
) -> PeftComparison:
    mixture = Mixture(base, [expert], XLoraConfig())
    try:
        alone = mixture.constant_scalings([1.0])
        effect = effect_of(mixture, alone, name=expert.name)
        with mixture.fixed_scalings(alone):
            found = _logits(mixture, base)
    finally:
        mixture.unload()
    difference = float((found - reference).abs().max())
    most = MOST_DIFFERENCE * max(1.0, float(reference.abs().max()))
    if not difference <= most:
        raise ExpertMismatch(
            f"adapter {expert.name!r} gives logits that differ by {difference:.2g} from PEFT's, of which"
            f" rounding explains {most:.2g}: it computes something else here than in PEFT"
        )
    return PeftComparison(modules=modules, logit_difference=difference, effect=effect)


@torch.no_grad()
def _logits(model: nn.Module, base: PreTrainedModel) -> Float[Tensor, "batch seq vocabulary"]:
    logits: Tensor = model(input_ids=probe_ids(base).to(base.device)).logits
    return logits.float()


@contextmanager
def _peft(base: PreTrainedModel, stored: Path, given: Path | None, name: str) -> Iterator[PeftModel]:
    """The base model with the adapter in it, as PEFT loads it; without it afterwards.

    Where PEFT cannot read the configuration that was given, as some that older releases wrote, it reads the
    one that is stored.
    """
    configs = [given] if given is not None and _is_quick(given, base) else []
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that are missing, which is looked at here
        (Path(scratch) / WEIGHTS_FILE).symlink_to((stored / WEIGHTS_FILE).absolute())
        for config in (*configs, stored / CONFIG_FILE):
            (Path(scratch) / CONFIG_FILE).write_bytes(config.read_bytes())
            try:
                model = PeftModel.from_pretrained(base, scratch)
                break
            except _PEFT_REFUSES as error:
                _take_out(base)
                refused = error
        else:
            raise ExpertMismatch(f"adapter {name!r} cannot be loaded by PEFT: {refused}") from refused
        model.eval()
        try:
            yield model
        finally:
            model.unload()


def _take_out(base: PreTrainedModel) -> None:
    """Undo what PEFT had done when it stopped."""
    for path, layer in [*base.named_modules()]:
        if isinstance(layer, LoraLayer):
            replace_module(base, path, layer.get_base_layer())


def _is_quick(config: Path, base: PreTrainedModel) -> bool:
    """Whether the expressions of a configuration end in time on every module that PEFT tries them on."""
    stated = json.loads(config.read_text(encoding="utf-8"))
    paths = tuple(path for path, _ in base.named_modules() if path)
    try:
        targets_of(stated).included(paths)
        for field in ("rank_pattern", "alpha_pattern"):
            by_patterns(stated.get(field) or {}, paths, default=None)
    except PatternRefused:
        return False
    return True


def _require_equal(expert: Expert, model: PeftModel) -> int:
    """The number of modules in which PEFT has the expert's factors and scale; it has no others."""
    layers = {
        path.removeprefix(KEY_PREFIX): module
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    for path, update in expert.updates.items():
        factors = _factors(layers[path]) if path in layers else None
        if factors is None:
            raise _other(expert, path, "nothing is added")
        A, B, scale = factors
        if not (torch.equal(A, update.A.float()) and torch.equal(B, update.B.float())):
            raise _other(expert, path, "other numbers are added")
        if not isclose(scale, update.scale, rel_tol=1e-9):
            raise _other(expert, path, f"{scale:g} times A and B is added, not {update.scale:g} times")
    stray = next((p for p, layer in layers.items() if p not in expert.updates and _adds(layer)), None)
    if stray is not None:
        raise _other(expert, stray, "something is added, and here nothing")
    return len(expert.updates)


def _factors(layer: Any) -> tuple[Tensor, Tensor, float] | None:
    linear: Mapping[str, nn.Module] = layer.lora_A
    if _NAME in linear:
        return layer.lora_A[_NAME].weight.float(), layer.lora_B[_NAME].weight.float(), layer.scaling[_NAME]
    if _NAME in layer.lora_embedding_A:
        A, B = layer.lora_embedding_A[_NAME], layer.lora_embedding_B[_NAME]
        return A.float(), B.float(), layer.scaling[_NAME]
    return None


def _adds(layer: Any) -> bool:
    factors = _factors(layer)
    return factors is not None and bool(factors[0].any() and factors[1].any())


def _other(expert: Expert, path: str, what: str) -> ExpertMismatch:
    return ExpertMismatch(
        f"adapter {expert.name!r} computes something else here than in PEFT: at {path}, {what} in PEFT"
    )
