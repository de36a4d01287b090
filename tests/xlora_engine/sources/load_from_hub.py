"""Run as a program: load saved models from the hub that HF_ENDPOINT names, and say what came of it.

python load_from_hub.py JOBS.json TOKENS.safetensors RESULTS

A job is the keyword arguments of `from_pretrained`, or without a `path` adapters of a new model; its result
is `RESULTS/<name>.safetensors` (logits), or `RESULTS/<name>.json` (code and message of the error).
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.pico import pico_llama
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import EngineError
from xlora_engine.mixture_editing import add_expert
from xlora_engine.model import XLoraModel


def made(**arguments: Any) -> XLoraModel:
    """The model that a job asks for."""
    if "path" in arguments:
        return XLoraModel.from_pretrained(base_model=pico_llama(), **arguments)
    *first, last = arguments["adapters"].items()
    config = XLoraConfig(xlora_depth=2, layerwise_scalings=True)
    model = XLoraModel.from_adapters(pico_llama(), dict(first), config)
    head = XLoraModel.from_adapters(pico_llama(), arguments["adapters"], config).head
    added = add_expert(model, *last)
    added.head.load_state_dict(head.state_dict())
    return added


def load(jobs: Path, tokens: Path, results: Path) -> None:
    """Try every job."""
    torch.set_num_threads(1)
    token_ids = load_file(tokens)["token_ids"]
    for name, arguments in json.loads(jobs.read_text()).items():
        try:
            model = made(**arguments)
        except EngineError as error:
            (results / f"{name}.json").write_text(json.dumps([error.code, str(error)]))
            continue
        with torch.no_grad():
            save_file({"logits": model(token_ids).logits}, results / f"{name}.safetensors")


if __name__ == "__main__":
    load(*map(Path, sys.argv[1:]))
