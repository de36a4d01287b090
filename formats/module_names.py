"""One module under the names that files, classes and wrappers give it, and the one it has in a loaded model.

A decoder is `model` in a text model, `language_model.model` in the files of a multimodal one and
`model.language_model` in memory; a compiler or a parallel wrapper puts a name of its own in between. Source:
transformers 5, `conversion_mapping`; `torch.compile`, `DistributedDataParallel` and FSDP.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

#: Names that say where a module lies, never which one it is.
_PLACES = re.compile(r"^(?:(?:model|language_model|text_model)\.)*")
_WRAPPERS = re.compile(
    r"(?:^module\.|(?<![^.])_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.)"
)
#: An encoder's own model, which the files name and the loaded model does not.
_ENCODER = re.compile(r"^((?:vision|image|video)_tower)\.vision_model\.")

#: Parts of multimodal models that only pictures and sounds pass through.
_NO_TEXT = re.compile(
    r"(?:vision_tower|image_tower|video_tower|visual|vision_model|vision_encoder|vision_embedder|embed_vision"
    r"|multi_modal_projector|mm_projector|connector|aligner|audio_tower|audio_encoder|embed_audio"
    r"|audio_projection)(?:\.|$)"
)


_MODULE_PATH = re.compile(r"(?=.{1,256}\Z)[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")


def is_module_path(text: str) -> bool:
    """Whether a text is a dotted path of plain module names."""
    return _MODULE_PATH.fullmatch(text) is not None


def without_wrappers(path: str) -> str:
    """The path without the names that compilers and parallel wrappers put in between."""
    return _WRAPPERS.sub("", path)


def place_independent(path: str) -> str:
    """What is left of a path without the names of the models around it; equal for names of one module."""
    bare = without_wrappers(path)
    return _ENCODER.sub(r"\1.", _PLACES.sub("", bare, count=1))


def is_of_no_text(path: str) -> bool:
    """Whether the module is part of what reads pictures or sounds: text never passes through it."""
    return _NO_TEXT.match(place_independent(path)) is not None


def loaded_names(paths: Iterable[str], loaded: Collection[str]) -> Mapping[str, str]:
    """Path -> name of the same module among `loaded`; a path is left out where there is none, or several.

    `loaded` are the paths of a loaded model's modules.
    """
    by_rest: dict[str, list[str]] = {}
    for name in loaded:
        by_rest.setdefault(place_independent(name), []).append(name)
    names: dict[str, str] = {}
    for path in paths:
        candidates = [path] if path in loaded else by_rest.get(place_independent(path), ())
        if len(candidates) == 1:
            names[path] = candidates[0]
    return names


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an adapter's updates go in one base model."""

    #: Path in the adapter -> path in the loaded model.
    names: Mapping[str, str]
    #: Of parts for pictures and sounds, which this base model has not got: text computes the same without.
    left_out: tuple[str, ...]
    #: In neither.
    missing: tuple[str, ...]


def placement(paths: Iterable[str], loaded: Collection[str]) -> Placement:
    """Where updates of modules at these paths go, `loaded` being the paths of the base model's modules."""
    paths = tuple(paths)
    names = loaded_names(paths, loaded)
    twice = _taken_twice(names)
    names = {path: name for path, name in names.items() if name not in twice}
    strays = [path for path in paths if path not in names]
    may_go = bool(names) and not any(map(is_of_no_text, loaded))
    left_out = tuple(path for path in strays if may_go and is_of_no_text(path))
    missing = tuple(path for path in strays if path not in left_out)
    return Placement(names=names, left_out=left_out, missing=missing)


def _taken_twice(names: Mapping[str, str]) -> frozenset[str]:
    """Modules that two paths would be: none of them can be told from the other."""
    seen: set[str] = set()
    twice: set[str] = set()
    for name in names.values():
        (twice if name in seen else seen).add(name)
    return frozenset(twice)
