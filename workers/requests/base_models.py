"""A base model from a folder of transformers or a GGUF file, which is converted, to the registry.

It is registered once the library that loads it has built its skeleton and found its weights by their names.
"""

import tempfile
from functools import partial
from pathlib import Path

from registry.entities import BaseModel
from registry.errors import InvalidBase
from registry.files.linked_files import hub_origin, snapshot_of
from registry.files.safetensors_file import TensorEntry
from registry.intake.base_weights import ProvenBase
from registry.service import Registry
from workers.processes.heavy_imports import heavy_imports
from xlora_engine.errors import BaseUnsupported


def is_converted(path: Path) -> bool:
    """Whether the base model at a path is converted before it is registered, which takes half a minute."""
    return path.suffix == ".gguf"


def register_base(
    registry: Registry,
    path: Path,
    *,
    name: str,
    source: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
    chat_template: str | None = None,
) -> BaseModel:
    """Register the base model at a path; its source is the path's last name if left out.

    `chat_template` names one of its own, or of `formats.chat_templates`, or a file.

    Raises:
        InvalidBase: there is no base model that can be loaded safely, or none that can be trained on.
        NameTaken: the name means another base model, or this one has another name.
    """
    register = partial(
        registry.bases.register,
        name=name,
        source=source or hub_origin(snapshot_of(path, refusal=InvalidBase)) or path.name,
        revision=revision,
        licence=licence,
        prove=partial(_proven, called=path),
        chat_template=chat_template,
    )
    if not is_converted(path):
        return register(path)
    # torch and transformers take seconds to import, and only a conversion needs them.
    from transformers.utils import logging as transformers_logging

    from xlora_engine.sources.base_model import convert_gguf

    transformers_logging.disable_progress_bar()  # they count tensors; the vocabulary takes the time
    with tempfile.TemporaryDirectory(dir=registry.settings.home, prefix=".convert-") as scratch:
        folder = Path(scratch) / "base"
        convert_gguf(path, folder)
        return register(folder)


def _proven(folder: Path, weights: tuple[TensorEntry, ...], *, called: Path) -> ProvenBase:
    # torch and transformers take seconds to import; what the files tell by themselves is refused before.
    with heavy_imports():
        from xlora_engine.data.template_proof import read_template
        from xlora_engine.sources.base_skeleton import read_skeleton
    try:
        shapes = {entry.name: (entry.dtype, entry.shape) for entry in weights}
        skeleton = read_skeleton(folder, shapes, called=called)
        template = read_template(folder, called=called)
    except BaseUnsupported as error:
        raise InvalidBase(str(error)) from error
    return ProvenBase(
        modules=skeleton.modules,
        warnings=(*skeleton.warnings, *template.warnings),
        template=template.default,
    )
