"""Generation beside the base model, PEFT and two plain passes: tokens a second and memory."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.contenders import Contender, base_alone, ours, peft_xlora, two_caches
from benchmarks.measures import timed
from benchmarks.on_gpu.models import SHAPES, composed, on_disk, random_base, random_experts
from benchmarks.on_gpu.parts import Setting
from benchmarks.on_gpu.rows import Row

#: PEFT computes every token again at each step: so many are generated, and its time is scaled up.
_PEFT_NEW_TOKENS = 4


@dataclass(frozen=True, kw_only=True)
class Case:
    """One base model, how many experts, and the batch sizes."""

    shape: str
    experts: int
    batch_sizes: Sequence[int]


#: Bars are for the largest model: small ones spend their time on starting kernels.
_CASES = (
    Case(shape="8B", experts=3, batch_sizes=(1, 8, 32)),
    Case(shape="135M", experts=3, batch_sizes=(1, 32)),
    Case(shape="1B", experts=8, batch_sizes=(1, 32)),
    Case(shape="MoE", experts=3, batch_sizes=(1,)),
)
_BARS = {1: 1.25, 32: 1.6}

_CONTENDERS = {"base": base_alone, "ours": ours, "two caches": two_caches, "peft": peft_xlora}


def run(setting: Setting, say: Callable[[Row], None]) -> None:
    """Every case; of each, every contender on the same base model."""
    for case in _CASES:
        _run_case(case, setting, say)
        _give_memory_back(setting)


def _give_memory_back(setting: Setting) -> None:
    """What is no longer used would count among the next one's peak."""
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()


def _run_case(case: Case, setting: Setting, say: Callable[[Row], None]) -> None:
    prompt, new = (16, 8) if setting.quick else (512, 128 if _is_largest(case.shape) else 64)
    base = random_base(case.shape, setting)
    model = composed(base, random_experts(base, case.experts, setting))
    subject = on_disk(model, setting.folder / case.shape)
    model.unload()
    del model
    vocabulary = base.config.vocab_size
    seconds: dict[tuple[str, int], float] = {}
    for name, make in _CONTENDERS.items():
        if name == "peft" and case.shape == "MoE":
            continue  # it wraps each of a layer's experts by itself
        contender = make(base, subject)
        for batch_size in case.batch_sizes:
            what = f"{case.shape}, {case.experts} experts, batch {batch_size}: {name}"
            ids = _prompt(batch_size, prompt, vocabulary, setting)
            made = _PEFT_NEW_TOKENS if name == "peft" else new
            found = _measured(contender, ids, made, setting)
            seconds[name, batch_size] = found[0] * new / made
            note = f"peak {found[1] / 2**30:.2f} GiB"
            rate = batch_size * new / seconds[name, batch_size]
            say(Row(part="", what=what, value=rate, unit="tokens/s", note=note))
            if name != "base":
                ratio = seconds[name, batch_size] / seconds["base", batch_size]
                is_judged = name == "ours" and _is_largest(case.shape)
                bar = _BARS.get(batch_size) if is_judged and not setting.quick else None
                say(Row(part="", what=f"{what}, times the base", value=ratio, at_most=bar))
        if name in ("ours", "two caches"):
            contender.model.unload()  # type: ignore[operator]
        del contender
        _give_memory_back(setting)


def _is_largest(shape: str) -> bool:
    return shape == max(SHAPES, key=lambda name: SHAPES[name].full["hidden_size"])


def _prompt(batch_size: int, tokens: int, vocabulary: int, setting: Setting) -> Int[Tensor, "batch seq"]:
    generator = torch.Generator().manual_seed(batch_size)
    return torch.randint(3, vocabulary, (batch_size, tokens), generator=generator).to(setting.device)


def _measured(
    contender: Contender, ids: Int[Tensor, "batch seq"], new: int, setting: Setting
) -> tuple[float, int]:
    """Seconds and peak bytes of one generation, after a short one."""
    with torch.no_grad():
        contender.generate(ids, 2)
        found = timed(lambda: contender.generate(ids, new), setting.device)
    return found.seconds, found.peak_bytes
