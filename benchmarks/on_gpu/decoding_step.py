"""One step of decoding: how often the host waits for the device, and its time over its bytes' time."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measures import timed
from benchmarks.memory import model_bytes
from benchmarks.on_gpu.models import composed, random_base, random_experts
from benchmarks.on_gpu.parts import Setting
from benchmarks.on_gpu.rows import Row
from xlora_engine.model import XLoraModel

#: Calls in which the host waits for the device; where there is no GPU, values taken to the host are counted.
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_ITEM = "aten::_local_scalar_dense"


def run(setting: Setting, say: Callable[[Row], None]) -> None:
    """Of the largest model, by the difference between a long and a short generation."""
    model = _model(setting)
    prompt = 16 if setting.quick else 512
    ids = torch.arange(3, 3 + prompt, device=setting.device)[None]
    short, long = (4, 12) if setting.quick else (8, 24)

    def generate(new: int) -> None:
        model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)

    generate(short)
    is_gpu = setting.device.type == "cuda"

    def waits_a_token() -> float:
        found = [_waits(lambda new=new: generate(new), is_gpu) for new in (short, long)]  # type: ignore[misc]
        return (found[1] - found[0]) / (long - short)

    with model.disabled():
        note = f"the base model alone: {waits_a_token():.2f}"
    # Where there is no GPU nothing waits, and values are taken to the host for other reasons.
    bar = 1.0 if is_gpu else None
    say(Row(part="", what="synchronisations a token", value=waits_a_token(), at_most=bar, note=note))
    seconds = [timed(lambda new=new: generate(new), setting.device).seconds for new in (short, long)]  # type: ignore[misc]
    a_token = (seconds[1] - seconds[0]) / (long - short)
    say(Row(part="", what="a token, batch 1", value=a_token * 1e3, unit="ms"))
    # Of the input embedding one row is read.
    read = model_bytes(model) - model_bytes(model.base.get_input_embeddings())
    floor = read / _bandwidth(setting.device)
    note = f"every weight read once: {floor * 1e3:.2f} ms at the speed of a copy measured here"
    say(Row(part="", what="a token over the time to read the weights", value=a_token / floor, note=note))


def _model(setting: Setting) -> XLoraModel:
    base = random_base("8B", setting)
    return composed(base, random_experts(base, 3, setting))


def _waits(act: Callable[[], None], is_gpu: bool) -> int:
    # On a GPU without the host's operators, of which there are half a million: the runtime's calls are there.
    with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]) as profiled:
        act()
    names = _WAITS if is_gpu else (_ITEM,)
    return sum(event.count for event in profiled.key_averages() if event.key.startswith(names))


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that this machine reads, by a copy, which reads and writes each byte."""
    size = 2**33 if device.type == "cuda" else 2**26
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / min(timed(lambda: target.copy_(source), device).seconds for _ in range(3))
