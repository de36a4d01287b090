"""Every family of base models through the whole way of the command line, as small random models.

    python -m benchmarks.families [NAME...]

Registers the base model, trains two adapters, scores one, composes both, asks and exports: each by the `zoo`
command in a home folder of its own. Prints one line a family, and ends with 1 if a command failed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import transformers

from tests.pico import pico_tokenizer
from tests.small_bases import SMALL_BASES

DOMAINS = ("bio", "law")
_TRAINING = ("--steps", "2", "--warmup-steps", "0", "--rank", "2", "--batch-size", "2", "-q")


def main() -> int:
    """Run the families named on the command line, or all."""
    failed = 0
    for name in sys.argv[1:] or SMALL_BASES:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            fault = _whole_way(name, Path(folder))
        failed += fault is not None
        print(f"{name:24} {fault or 'ok'} ({time.monotonic() - started:.0f} s)", flush=True)
    return 1 if failed else 0


def _whole_way(name: str, folder: Path) -> str | None:
    """What went wrong, or nothing."""
    _write_base(name, folder / "base")
    _write_data(folder)
    train = [
        ("train", "--name", d, "--base", "base", "--data", f"{d}.train.jsonl", "--domain", d, *_TRAINING)
        for d in DOMAINS
    ]
    data = [part for d in DOMAINS for part in ("--data", f"{d}={d}.train")]
    held_out = [part for d in DOMAINS for part in ("--eval-data", f"{d}={d}.eval")]
    compose = ("compose", "--adapters", ",".join(DOMAINS), "--name", "both", *data, *held_out)
    commands = [
        ("register", "base", "base", "--name", "base", "-q"),
        *train,
        *(("register", "dataset", f"{d}.eval.jsonl", "-q") for d in DOMAINS),
        ("eval", "bio", "--data", "bio.eval", "-q"),
        (*compose, "--warm-start-steps", "4", "--mixture-steps", "1", "-q"),
        ("generate", "both", "bio 1?", "--max-new-tokens", "4"),
        ("generate", "bio", "bio 1?", "--max-new-tokens", "4"),
        ("export", "both", "exported", "--format", _export_format(name)),
    ]
    for command in commands:
        done = _zoo(folder, *command)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("error")] or [
                done.stderr[-300:]
            ]
            return f"{' '.join(command[:2])}: {said[0]}"
    return None


def _export_format(name: str) -> str:
    """PEFT's, whose reader finds experts only below `model.` (huggingface/peft#2132); elsewhere the zoo's."""
    return "peft" if getattr(transformers, SMALL_BASES[name].model).base_model_prefix == "model" else "zoo"


def _zoo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {"ZOO_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": "none", "NO_COLOR": "1"}
    program = [str(Path(sys.executable).with_name("zoo")), *arguments]
    return subprocess.run(
        program, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )


def _write_base(name: str, folder: Path) -> None:
    tokenizer = pico_tokenizer()
    SMALL_BASES[name].build(vocab_size=len(tokenizer), context=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_data(folder: Path) -> None:
    for domain in DOMAINS:
        for split, count in (("train", 8), ("eval", 4)):
            lines = [
                {
                    "messages": [
                        {"role": "user", "content": f"{domain} {n}?"},
                        {"role": "assistant", "content": domain[0] * 2},
                    ]
                }
                for n in range(count)
            ]
            file = folder / f"{domain}.{split}.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
