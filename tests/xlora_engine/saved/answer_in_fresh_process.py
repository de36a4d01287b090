"""Run as a program: load a saved composition in a process that has built nothing, and write its logits.

python answer_in_fresh_process.py CHECKPOINT TOKENS.safetensors DTYPE LOGITS.safetensors
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.pico import pico_llama
from xlora_engine.model import XLoraModel


def answer(jobs: list[str]) -> None:
    """Each job is `checkpoint tokens dtype logits`, one argument each; many jobs share one start of torch."""
    torch.set_num_threads(1)
    for checkpoint, tokens, dtype, logits in zip(*(iter(jobs),) * 4, strict=True):
        base = pico_llama()
        torch.nn.Module.to(base, getattr(torch, dtype))
        model = XLoraModel.from_pretrained(checkpoint, base)
        with torch.no_grad():
            found = model(load_file(Path(tokens))["token_ids"]).logits
        save_file({"logits": found}, Path(logits))


if __name__ == "__main__":
    answer(sys.argv[1:])
