"""Every Python block of README and documentation runs, in the order of its page, without a network."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.acceptance.documentation import PAGES, blocks, named
from tests.pico import pico_adapter, pico_base_folder
from xlora_engine import XLoraConfig, XLoraModel

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the blocks name: bases, adapters, and saved models as the hub would have them."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("smollm2", "HuggingFaceH4/zephyr-7b-beta"):
        pico_base_folder(folder / name)
    for seed, adapter in enumerate(("my-bio-lora", "my-protein-lora", "my-chem-lora", "owner/protein")):
        pico_adapter(folder / adapter, seed=seed)
    base = AutoModelForCausalLM.from_pretrained(folder / "smollm2")
    experts = {"bio": folder / "my-bio-lora", "protein": folder / "my-protein-lora"}
    model = XLoraModel.from_adapters(base, experts, XLoraConfig(layerwise_scalings=True))
    for path in ("mixture", "exported/zoo", "owner/models/science"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder / path)
    for path, layout in (("lamm-mit/x-lora", "xlora"), ("peft-folder", "peft")):
        model.export(folder / path, layout, base_id="base")
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_every_block_of_a_page_runs_after_those_before_it(
    page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{named(page)}, Python block {number}", "exec"), names)  # noqa: S102 - our own
