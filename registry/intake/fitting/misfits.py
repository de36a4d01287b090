"""Why an adapter does not fit a base model: the first reason that is true. Pure."""

import re
from collections.abc import Mapping, Sequence

from formats.base_modules import HEADS, BaseModule
from formats.module_names import Placement, is_of_no_text, loaded_names
from formats.peft import WEIGHTS_FILE, Factor
from registry.intake.adapter_tensors import ModuleShape

#: How many modules a message names before it only counts.
NAMED = 3

_EXPERT = re.compile(r"\.experts\.\d+\.|\.experts(?:\.base_layer)?\Z")
_ANOTHER = "it was made for another base model: register that one first with zoo register base"


def misfits(
    modules: Mapping[str, ModuleShape],
    placed: Placement,
    base_modules: Mapping[str, BaseModule],
    base_weights: Mapping[str, tuple[int, int]],
    base_name: str,
) -> list[tuple[str, str]]:
    """Code and message of each refusal; of `base_weights`, some cannot be adapted."""
    found = []
    if placed.missing:
        lacking = f"{base_name} lacks {listed(placed.missing)}, which the adapter changes"
        why = _why_missing(placed.missing, modules, base_modules, base_weights)
        found.append(("ZOO-E271", f"{lacking}; {why}"))
    wrong = [path for path, name in placed.names.items() if not _fits(modules[path], base_modules[name])]
    if wrong:
        shapes = [
            f"{path} is {_shape(modules[path])}, expected {_shape(base_modules[placed.names[path]])}"
            for path in wrong
        ]
        why = _why_misshapen(wrong, modules, {path: base_modules[placed.names[path]] for path in wrong})
        found.append(("ZOO-E272", f"the adapter does not fit {base_name}: {listed(shapes)}; {why}"))
    return found


def listed(items: Sequence[str]) -> str:
    """The first of these, and how many more there are."""
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


def _fits(update: ModuleShape, module: BaseModule) -> bool:
    return _shape(update) == _shape(module)


def _shape(module: ModuleShape | BaseModule) -> str:
    return f"{module.d_out}×{module.d_in}{' of an embedding' if module.is_embedding else ''}"


def _why_missing(
    missing: Sequence[str],
    modules: Mapping[str, ModuleShape],
    base_modules: Mapping[str, BaseModule],
    base_weights: Mapping[str, tuple[int, int]],
) -> str:
    if all(map(is_of_no_text, missing)):
        return "they read pictures or sounds, and the adapter changes nothing else that this base model has"
    experts = [path for path in missing if _EXPERT.search(path)]
    if experts:
        return (
            "experts of a mixture-of-experts layer are one weight once the model is loaded, no modules of"
            " their own: train the adapter again on the attention layers, with target_modules"
        )
    there = loaded_names(missing, base_weights)
    if there:
        return (
            f"{next(iter(there))} is there, but neither a linear layer nor an embedding of tokens: train the"
            " adapter again without it"
        )
    return _renaming(missing, modules[missing[0]], base_modules) or _ANOTHER


def _why_misshapen(
    wrong: Sequence[str], modules: Mapping[str, ModuleShape], expected: Mapping[str, BaseModule]
) -> str:
    """The reason for shapes that differ, all of them the vocabulary's perhaps."""
    sizes = {(_vocabulary(modules[path]), _vocabulary(expected[path])) for path in wrong}
    is_vocabulary = all(
        (update.is_embedding or path.rpartition(".")[2] in HEADS)
        and update.is_embedding == expected[path].is_embedding
        and _width(update) == _width(expected[path])
        for path, update in ((path, modules[path]) for path in wrong)
    )
    if not is_vocabulary or len(sizes) != 1:
        return _ANOTHER
    ((found, there),) = sizes
    return (
        f"it was trained on a vocabulary of {found:,} tokens, and the base model has {there:,}: register the"
        " base model that was resized for it, with its tokenizer"
    )


def _vocabulary(module: ModuleShape | BaseModule) -> int:
    return module.d_in if module.is_embedding else module.d_out


def _width(module: ModuleShape | BaseModule) -> int:
    return module.d_out if module.is_embedding else module.d_in


def _renaming(
    missing: Sequence[str], first: ModuleShape, base_modules: Mapping[str, BaseModule]
) -> str | None:
    """How to rename the keys if the modules are the base model's but for names in between; None if not."""
    surplus = _surplus(missing[0], base_modules)
    if surplus is None or any(_without(surplus, path) not in base_modules for path in missing):
        return None
    key = Factor(module=missing[0], half="A", is_embedding=first.is_embedding).key
    return (
        f"the key {key} has {surplus} too much, as one saved from inside another model has:"
        f" save the adapter from the model itself, or rename its keys, in its folder: python -c "
        f'"import safetensors.torch as s; f = {WEIGHTS_FILE!r};'
        f" t = {{k.replace('.{surplus}.', '.', 1): v for k, v in s.load_file(f).items()}};"
        " s.save_file(t, f, metadata={'format': 'pt'})\""
    )


def _surplus(path: str, base_modules: Mapping[str, BaseModule]) -> str | None:
    """The fewest names in a row without which the path is a module of the base model."""
    names = path.split(".")
    for count in range(1, len(names)):
        for start in range(len(names) - count):
            if ".".join((*names[:start], *names[start + count :])) in base_modules:
                return ".".join(names[start : start + count])
    return None


def _without(surplus: str, path: str) -> str:
    # As the command in the message does it, whose keys have a prefix.
    return f".{path}".replace(f".{surplus}.", ".", 1).removeprefix(".")
