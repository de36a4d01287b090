"""A base model whose linear layers are quantised to four bits: generate, train the head, memory."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.contenders import ours
from benchmarks.measures import timed
from benchmarks.memory import model_bytes
from benchmarks.on_gpu.models import composed, on_disk, random_base, random_experts
from benchmarks.on_gpu.parts import Setting
from benchmarks.on_gpu.rows import Row
from xlora_engine.data.chat import EncodedExample


def run(setting: Setting, say: Callable[[Row], None]) -> None:
    """Of the largest model; says so where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        note = "bitsandbytes is not installed: its wheel of 60 MB travels by itself"
        say(Row(part="", what="generate", value=None, note=note))
        return
    base = random_base("8B", setting)
    before = model_bytes(base)
    _quantise(base, setting)
    say(Row(part="", what="memory of the base, share of bfloat16's", value=model_bytes(base) / before))
    model = composed(base, random_experts(base, 3, setting))
    subject = on_disk(model, setting.folder)
    model.unload()
    contender = ours(base, subject)
    prompt, new = (16, 4) if setting.quick else (512, 32)
    ids = torch.arange(3, 3 + prompt, device=setting.device)[None]
    with torch.no_grad():
        contender.generate(ids, 2)
        found = timed(lambda: contender.generate(ids, new), setting.device)
    note = f"peak {found.peak_bytes / 2**30:.2f} GiB"
    say(Row(part="", what="generate, batch 1", value=new / found.seconds, unit="tokens/s", note=note))
    tokens = tuple(range(3, 3 + prompt))
    contender.model.train()
    step = contender.prepare_step([EncodedExample(token_ids=tokens, prompt_length=prompt // 2)] * 2)
    step()
    found = timed(step, setting.device)
    note = f"peak {found.peak_bytes / 2**30:.2f} GiB"
    say(Row(part="", what="head step, 2 sequences", value=found.seconds * 1e3, unit="ms", note=note))


def _quantise(base: nn.Module, setting: Setting) -> None:
    """Replace every linear layer of the decoder, as transformers does when it loads a model in four bits."""
    import bitsandbytes

    for path, module in list(base.named_modules()):
        if not isinstance(module, nn.Linear) or not path.endswith("_proj"):
            continue
        packed: Any = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=setting.dtype, quant_type="nf4"
        )
        weight = bitsandbytes.nn.Params4bit(module.weight.data.cpu(), requires_grad=False, quant_type="nf4")
        packed.weight = weight.to(setting.device)
        parent, _, name = path.rpartition(".")
        setattr(base.get_submodule(parent), name, packed)
