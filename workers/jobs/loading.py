"""A base model in memory, from the registry, on the device and in the dtype of this process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from registry.entities import BaseModel, Job
from registry.service import Registry
from workers.jobs.device import COMPUTE_DTYPES, device_here, dtype_here
from xlora_engine.data.chat import ChatTokenizer
from xlora_engine.data.dated_template import DatedTokenizer
from xlora_engine.data.stop_tokens import named_tokens, stop_where_answers_end
from xlora_engine.sources.base_model import ReadLimits, load_base, load_config, load_tokenizer, read_limits
from xlora_engine.sources.own_generation_config import stops_of

#: Receives a base model's tokenizer and what it can read before its weights are loaded; may refuse.
BeforeWeights = Callable[[ChatTokenizer, ReadLimits], None]

#: Chooses what to compute in on a device.
DtypeOn = Callable[[torch.device], torch.dtype]


@dataclass(frozen=True, kw_only=True)
class LoadedBase:
    """A base model, ready to be asked, trained on or composed on."""

    record: BaseModel
    model: PreTrainedModel
    tokenizer: DatedTokenizer

    @property
    def compute_dtype(self) -> str:
        """What it computes in, e.g. `bfloat16`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def limits(self) -> ReadLimits:
        """What it can read."""
        return read_limits(self.model.config)

    @property
    def decided(self) -> Mapping[str, Any]:
        """What is decided here and not asked for, as an adapter's record holds it."""
        return {"stop_tokens": self.stop_tokens, **dates(self.tokenizer)}

    @property
    def stop_tokens(self) -> Mapping[str, int]:
        """Text -> id of the tokens at which its answers end."""
        return named_tokens(self.tokenizer, stops_of(self.model.generation_config))


def dates(tokenizer: ChatTokenizer) -> Mapping[str, str]:
    """The date that the chat template writes, as settings and parameters hold it; empty if it writes none."""
    written = tokenizer.date_written if isinstance(tokenizer, DatedTokenizer) else None
    return {} if written is None else {"template_date": written.isoformat()}


def dtype_of(job: Job) -> DtypeOn:
    """What an earlier attempt of the job computed in, as its checkpoints did; else `dtype_here`."""
    earlier = job.compute_dtype

    def chosen(device: torch.device) -> torch.dtype:
        return dtype_here(device) if earlier is None else COMPUTE_DTYPES[earlier]

    return chosen


def loaded_base(
    registry: Registry,
    record: BaseModel,
    *,
    dtype_on: DtypeOn | None = None,
    before_weights: BeforeWeights = lambda *_: None,
) -> LoadedBase:
    """Load a base model, its files verified; `dtype_on` says what to compute in, `dtype_here` if left out.

    Raises:
        GpuUnusable: there is a GPU for this process, and its torch cannot use it.
        DigestMismatch: a stored file is not what was stored.
        BaseUnreadable: the folder holds no model that can be read.
    """
    folder = registry.materialise(record)
    # The same day for every job of a base model; which day matters less than that it stays.
    tokenizer = DatedTokenizer(tokenizer=load_tokenizer(folder), today=record.created_at.date())
    before_weights(tokenizer, read_limits(load_config(folder)))
    device = device_here()
    model = load_base(folder, dtype=(dtype_on or dtype_here)(device), device=device)
    stop_where_answers_end(model, tokenizer)
    return LoadedBase(record=record, model=model, tokenizer=tokenizer)
