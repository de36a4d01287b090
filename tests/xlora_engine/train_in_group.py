"""One of several processes that train an adapter together, as `test_process_group` asks.

    python -m tests.xlora_engine.train_in_group FOLDER

Its index in the group comes from the environment, as torch's launchers give it.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from formats.chat_examples import ChatExample
from tests.pico import pico_llama, pico_tokenizer
from xlora_engine.adapter_training.callbacks import StepMetrics
from xlora_engine.adapter_training.settings import AdapterTraining
from xlora_engine.adapter_training.train_adapter import TrainedAdapter, train_adapter
from xlora_engine.data.chat import EncodedExample, encode
from xlora_engine.devices.process_group import ALONE, ProcessGroup, joined
from xlora_engine.errors import ConfigInvalid, TrainingStopped

#: Batches of 6 out of 14 examples: the last one of an epoch has 2, fewer than the micro-batches of `CUT`.
WHOLE = AdapterTraining(
    rank=4, alpha=8, steps=6, batch_size=6, warmup_steps=2, learning_rate=1e-2, seed=3, weight_decay=0.01
)
CUT = replace(WHOLE, micro_batch_size=1)
#: Dropout, so that the state of each process's random numbers matters.
DROPPING = replace(WHOLE, dropout=0.2, checkpoint_every_s=1e-9)


def unequal_examples() -> list[EncodedExample]:
    """Answers of one to many tokens, so that the processes' shares of a batch differ in what they weigh."""
    pairs = [(f"{number} plus one" + "?" * (number % 3), "x" * (1 + number % 5 * 6)) for number in range(14)]
    return [
        encode(pico_tokenizer(), ChatExample(messages=(("user", q), ("assistant", a))), max_tokens=100)
        for q, a in pairs
    ]


def train(
    settings: AdapterTraining,
    folder: Path,
    *,
    base: LlamaForCausalLM | None = None,
    group: ProcessGroup = ALONE,
    steps: list[StepMetrics] | None = None,
    stop_after: int | None = None,
) -> TrainedAdapter:
    """Train on the examples above; `steps` collects the metrics of every step."""
    seen = [] if steps is None else steps
    return train_adapter(
        (base or pico_llama()).requires_grad_(False),
        pico_tokenizer(),
        unequal_examples(),
        settings,
        base_name="pico",
        folder=folder,
        group=group,
        on_step=seen.append,
        stop=lambda: stop_after is not None and bool(seen) and seen[-1].step + 1 >= stop_after,
    )


def main(arguments: Sequence[str]) -> int:
    """Train in every way that the test asks about; what this process saw goes to `seen-<index>.json`."""
    folder = Path(arguments[0])
    torch.set_num_threads(1)
    index, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    seen: dict[str, Any] = {}
    with joined(index=index, size=size, meeting_file=folder / "meeting-file") as group:
        for name, settings in (("whole", WHOLE), ("cut", CUT), ("dropping", DROPPING)):
            steps: list[StepMetrics] = []
            result = train(settings, folder / name, group=group, steps=steps)
            seen[name] = {"losses": result.losses, "steps": [step.step for step in steps]}
        seen["seed"] = torch.initial_seed()
        try:
            train(DROPPING, folder / "resumed", group=group, stop_after=3)
        except TrainingStopped as stopped:
            seen["stopped"] = str(stopped)
        result = train(DROPPING, folder / "resumed", group=group, steps=(steps := []))
        seen["resumed"] = {"losses": result.losses, "steps": [step.step for step in steps]}
        stubborn = pico_llama()
        stubborn.accepts_loss_kwargs = False  # type: ignore[assignment]  # torch knows tensors alone
        for name, settings, base in (("odd", replace(WHOLE, batch_size=7), None), ("base", WHOLE, stubborn)):
            try:
                train(settings, folder / name, base=base, group=group)
            except ConfigInvalid as refused:
                seen[name] = str(refused)
    (folder / f"seen-{index}.json").write_text(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
