"""Adapters to the registry, each compared with PEFT on the files that are stored before it is one."""

import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from formats.peft import CONFIG_FILE
from registry.entities import AdapterVersion, BaseModel
from registry.errors import InvalidAdapter
from registry.intake.proven_adapter import CheckedAdapter, ProvenAdapter
from registry.service import Registry
from workers.processes.heavy_imports import heavy_imports
from xlora_engine.errors import EngineError

#: Parameters of a base model that is run, in float32; of a larger one the adapter's tensors are compared,
#: module by module, which is as exact and takes no weights.
MOST_PARAMETERS = 400_000_000


def register_adapter(registry: Registry, folder: Path, **facts: Any) -> AdapterVersion:
    """Register the adapter in a folder: see `Adapters.register`.

    Raises:
        InvalidAdapter: it is none, computes something else than in PEFT, or nothing.
    """
    return registry.adapters.register(folder, prove=partial(_proven, registry), **facts)


def register_every_adapter(registry: Registry, folder: Path, **facts: Any) -> Sequence[AdapterVersion]:
    """Register every adapter below a folder: see `Adapters.register_every`; raises as `register_adapter`."""
    return registry.adapters.register_every(folder, prove=partial(_proven, registry), **facts)


def _proven(registry: Registry, adapter: CheckedAdapter) -> ProvenAdapter:
    # torch, transformers and PEFT take seconds to import; what the files tell is refused before.
    with heavy_imports():
        import torch
        from transformers.utils import logging as transformers_logging

        from xlora_engine.measuring.peft_comparison import compare_with_peft, weightless
        from xlora_engine.sources.architectures import UnprovenArchitecture
        from xlora_engine.sources.base_model import load_base
    transformers_logging.disable_progress_bar()
    base, given = adapter.base, adapter.given_config
    runs = base.parameter_count <= MOST_PARAMETERS
    with tempfile.TemporaryDirectory() as scratch:
        config = None if given is None else Path(scratch) / CONFIG_FILE
        if config is not None and given is not None:
            config.write_bytes(given)
        try:
            if runs:
                folder = registry.materialise(base)
                model = load_base(folder, dtype=torch.float32, device=torch.device("cpu"))
            else:
                model = weightless(_configuration(registry, base, Path(scratch)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnprovenArchitecture)  # the base model's record says it
                found = compare_with_peft(model, adapter.folder, name=adapter.name, given=config, runs=runs)
        except EngineError as error:
            raise InvalidAdapter(str(error)) from error
    return ProvenAdapter(effect_score=found.effect, comparison=found.to_json())


def _configuration(registry: Registry, base: BaseModel, scratch: Path) -> Path:
    """A folder with the base model's config.json alone."""
    folder = scratch / "base"
    folder.mkdir()
    digest = next(file.digest for file in base.files if file.path == "config.json")
    (folder / "config.json").write_bytes(registry.artifacts.read(digest))
    return folder
