"""What a training would do: its data read with the base model's tokenizer, its memory; nothing is trained."""

from dataclasses import dataclass
from pathlib import Path

import torch

from registry.service import Registry
from workers.jobs.device import device_here, dtype_here
from workers.jobs.train import training_of
from workers.methods.training_examples import encode_sample
from workers.requests.training import PlannedTraining, called, file_of
from workers.training_data.drawn_sequences import draw_sequences
from xlora_engine.adapter_training.memory import training_memory
from xlora_engine.adapter_training.train_adapter import lora_config
from xlora_engine.data.chat import collate, pad_token
from xlora_engine.sources.base_model import load_config, load_tokenizer, read_limits

_MEMINFO = Path("/proc/meminfo")
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class TrainingForecast:
    """What is known of a training before it begins."""

    name: str
    base: str
    train_dataset: str
    eval_dataset: str | None
    examples: int
    #: Of all examples together.
    tokens: int
    longest_example_tokens: int
    #: What a person should know of the data.
    warnings: tuple[str, ...]
    steps: int
    epochs: float
    trained_parameters: int
    device: str
    compute_dtype: str
    #: At the peak, if the longest examples meet in one step.
    memory_mib: int
    #: None where the system does not say.
    memory_available_mib: int | None
    fits: bool | None


def forecast(registry: Registry, planned: PlannedTraining) -> TrainingForecast:
    """Check what a training needs, as its job would, and estimate what it takes.

    Raises:
        ChatInvalid: an example cannot be encoded, or is longer than may be; the first such line is named.
        ConfigInvalid: a target module that the base model does not have.
        GpuUnusable: there is a GPU for this process, and its torch cannot use it.
    """
    spec = planned.spec
    folder = registry.materialise(registry.bases.get(spec.base))
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    limits = read_limits(config)
    held_out = None if planned.held_out is None else file_of(registry, planned.held_out)
    if held_out is not None:
        encode_sample(held_out, tokenizer, count=None, limits=limits, seed=spec.seed)
    files = {called(one): file_of(registry, one) for one in (planned.train, *planned.further)}
    drawn = draw_sequences(files, tokenizer, spec, limits=limits, held_out=held_out)
    examples = drawn.sequences
    device = device_here()
    dtype = dtype_here(device)
    sequences = spec.batch_size // spec.processes
    longest = sorted(examples, key=lambda example: len(example.token_ids))[-sequences:]
    batch = collate(longest, pad_id=pad_token(tokenizer))
    memory = training_memory(
        config,
        lora_config(training_of(spec)),
        dtype=dtype,
        sequences=sequences,
        tokens=batch.input_ids.shape[1],
        labelled=batch.keep,
    )
    available = _available_bytes(device)
    return TrainingForecast(
        name=spec.name,
        base=spec.base,
        train_dataset=spec.train_dataset,
        eval_dataset=spec.eval_dataset,
        examples=len(examples),
        tokens=sum(len(example.token_ids) for example in examples),
        longest_example_tokens=len(longest[-1].token_ids),
        warnings=drawn.warnings,
        steps=spec.steps,
        epochs=round(spec.steps * spec.batch_size / len(examples), 2),
        trained_parameters=memory.trained_parameters,
        device=str(device),
        compute_dtype=str(dtype).removeprefix("torch."),
        memory_mib=round(memory.total / _MIB),
        memory_available_mib=None if available is None else available // _MIB,
        fits=None if available is None else memory.total <= available,
    )


def _available_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if not _MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
