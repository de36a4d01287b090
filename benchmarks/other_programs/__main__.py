"""Do adapters of other programs compute in the registry what they compute at home? By their logits.

    python -m benchmarks.other_programs write DIR
    MLX_PYTHON        benchmarks/other_programs/with_mlx.py DIR         # mlx-lm
    LYCORIS_PYTHON    benchmarks/other_programs/with_lycoris.py DIR     # lycoris-lora
    ADAPTERHUB_PYTHON benchmarks/other_programs/with_adapterhub.py DIR  # adapters
    python -m benchmarks.other_programs compare DIR

Each program lives in an environment of its own, as some want an older transformers. A program that was not
run is left out of the table.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.other_programs.tokens import TOKENS
from registry.service import Registry
from registry.settings import Settings
from tests.pico import pico_base_folder


def compare(folder: Path) -> None:
    """Print the largest difference of logits of each adapter whose own program left its logits beside it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokens = torch.tensor(TOKENS)
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_env({"ZOO_HOME": home})
        with Registry.open(settings) as registry, torch.no_grad():
            registry.bases.register(folder / "base", name="pico", source="pico")
            print(f"{'adapter':<24}{'rank':>6}{'modules':>9}{'moved by':>10}{'difference':>12}")
            for logits in sorted(folder.glob("*.npy")):
                given = next(path for path in folder.glob(f"{logits.stem}*") if path.suffix != ".npy")
                record = registry.adapters.register(given, name=logits.stem, base="pico")
                base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
                alone = base(tokens).logits
                adapted = PeftModel.from_pretrained(base, registry.materialise(record))(tokens).logits
                theirs = torch.from_numpy(np.load(logits))
                moved, difference = (adapted - alone).abs().max(), (adapted - theirs).abs().max()
                print(
                    f"{record.name:<24}{record.rank:>6}{len(record.modules):>9}{moved:>10.2f}{difference:>12.1e}"
                )


if __name__ == "__main__":
    if sys.argv[1] == "write":
        pico_base_folder(Path(sys.argv[2]) / "base")
    else:
        compare(Path(sys.argv[2]))
