"""Loads exported folders in mistral.rs; a process of its own, for its library starts threads that do not end.

Arguments: compositions, `--`, a base model, a prompt, adapters of it, `--`, merged models. One line of JSON.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial

from mistralrs import CompletionRequest, LoraAdapter, Runner, Which

NEW_TOKENS = 12
ADAPTER = "bio"


def load(folder: str) -> str:
    """A composition and its base model; it cannot be asked."""
    order = f"{folder}/xlora-ordering.json"
    Runner(which=Which.XLora(xlora_model_id=folder, order=order, model_id=f"{folder}/base"))
    return "loaded"


def answer(which: Which, prompt: str, adapter: str | None = None) -> str:
    """What follows a prompt, greedily."""
    request = CompletionRequest(
        model="default", adapter=adapter, prompt=prompt, max_tokens=NEW_TOKENS, temperature=0.0
    )
    text: str = Runner(which=which).send_completion_request(request).choices[0].text
    return text


def tried(act: Callable[[], str]) -> str:
    """What it gives, or what mistral.rs says against it."""
    try:
        return act()
    except BaseException as refusal:  # a panic is no Exception
        return str(refusal)


def main(compositions: list[str], asked: list[str], merged: list[str]) -> dict[str, str]:
    """What became of each folder."""
    base, prompt, *adapters = asked
    said = {folder: tried(partial(load, folder)) for folder in compositions}
    for folder in adapters:
        which = Which.Lora(model_id=base, adapters=[LoraAdapter(alias=ADAPTER, source=folder)])
        said[folder] = tried(partial(answer, which, prompt, ADAPTER))
    for folder in merged:
        said[folder] = tried(partial(answer, Which.Plain(model_id=folder), prompt))
    return said


groups: list[list[str]] = [[]]
for argument in sys.argv[1:]:
    if argument == "--":
        groups.append([])
    else:
        groups[-1].append(argument)
sys.stdout.write("\n" + json.dumps(main(*groups)) + "\n")
sys.stdout.flush()
os._exit(0)
