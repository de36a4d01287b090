"""Saved models come from a folder or from the hub, by name, revision and subfolder."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.pico import pico_llama
from tests.xlora_engine.hub_server import Hub, hub_of
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid
from xlora_engine.model import XLoraModel
from xlora_engine.sources.hub import local_folder, looks_like_repository

ROOT = Path(__file__).parents[3]

#: What is asked of the hub; every job in one process, because each starts torch.
JOBS: dict[str, dict[str, Any]] = {
    "original": {"path": "owner/original"},
    "subfolder": {"path": "owner/collection", "subfolder": "models/science", "revision": "v2"},
    "experts": {"path": "owner/peft", "adapters": {"0": "owner/bio", "1": "owner/chem.v2"}},
    "new": {"adapters": {"bio": "owner/bio", "chem": "owner/chem.v2"}},
    "no adapter": {"adapters": {"bio": "owner/bio", "chem": "owner/nothing"}},
    "no repository": {"path": "owner/nothing"},
    "no name of a repository": {"path": "owner/a--b"},
    "no revision": {"path": "owner/original", "revision": "v9"},
    "no subfolder": {"path": "owner/collection", "subfolder": "science"},
    "an older revision": {"path": "owner/collection", "subfolder": "models/science"},
}


@dataclass(frozen=True)
class Asked:
    """What came of the jobs, and what the hub was asked for."""

    results: Path
    expected: Tensor
    fetched: list[str]

    def logits(self, name: str) -> Tensor:
        """Of a model that was loaded."""
        return load_file(self.results / f"{name}.safetensors")["logits"]

    def error(self, name: str) -> list[str]:
        """Code and message."""
        error: list[str] = json.loads((self.results / f"{name}.json").read_text())
        return error


def environment(hub: Hub, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def asked(
    expert_folders: dict[str, Path], token_ids: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Asked:
    root = tmp_path_factory.mktemp("hub")
    two = {"bio": expert_folders["bio"], "chem": expert_folders["protein.v2"]}
    model = XLoraModel.from_adapters(pico_llama(), two, XLoraConfig(xlora_depth=2, layerwise_scalings=True))
    model.export(root / "original", "xlora")
    (root / "original" / "xlora_classifier.pt").write_bytes(b"a pickle")
    (root / "original" / "pytorch_model.bin").write_bytes(b"a pickle")
    (root / "original" / "model-00001-of-00002.safetensors").write_bytes(b"a base model")
    model.save_pretrained(root / "collection" / "models" / "science")
    (root / "old").mkdir()
    (root / "old" / "README.md").write_text("nothing yet")
    model.export(root / "peft", "peft")
    for name in two:
        shutil.rmtree(root / "peft" / name)
    repositories = {
        "owner/original": {"main": root / "original"},
        "owner/collection": {"main": root / "old", "v2": root / "collection"},
        "owner/peft": {"main": root / "peft"},
        "owner/bio": {"main": two["bio"]},
        "owner/chem.v2": {"main": two["chem"]},
    }
    save_file({"token_ids": token_ids}, root / "tokens")
    (root / "jobs.json").write_text(json.dumps(JOBS))
    (root / "results").mkdir()
    with hub_of(repositories) as hub:
        script = Path(__file__).with_name("load_from_hub.py")
        arguments = [root / "jobs.json", root / "tokens", root / "results"]
        subprocess.run(
            [sys.executable, script, *arguments], check=True, env=environment(hub, root / "home"), cwd=root
        )
    with torch.no_grad():
        return Asked(root / "results", model(token_ids).logits, hub.fetched)


@pytest.mark.processes
@pytest.mark.parametrize("name", ["original", "subfolder", "experts", "new"])
def test_a_model_of_the_hub_answers_as_the_saved_one(name: str, asked: Asked) -> None:
    assert torch.equal(asked.logits(name), asked.expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no repository", "there is no folder 'owner/nothing' here, and the hub shows none at revision main"),
        ("no adapter", "there is no folder 'owner/nothing' here, and the hub shows none"),
        ("no name of a repository", "there is no folder 'owner/a--b' here"),
        ("no revision", "the hub shows none at revision v9"),
        ("no subfolder", "owner/collection at its main revision has no folder 'science'"),
        ("an older revision", "owner/collection at its main revision has no folder 'models/science'"),
    ],
)
def test_what_the_hub_does_not_have_is_said(name: str, reason: str, asked: Asked) -> None:
    code, message = asked.error(name)

    assert code == "ZOO-E381"
    assert reason in message


def test_only_files_of_a_saved_model_are_fetched(asked: Asked) -> None:
    assert "xlora_classifier.safetensors" in asked.fetched
    assert "models/science/experts/bio/adapter_model.safetensors" in asked.fetched
    assert not [name for name in asked.fetched if name.endswith((".pt", ".bin", ".md"))]
    assert "model-00001-of-00002.safetensors" not in asked.fetched


@pytest.mark.processes
def test_a_hub_that_does_not_answer_is_said_and_its_cache_serves_offline(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "xlora_config.json").write_text("{}")
    code = (
        "import sys\n"
        "from xlora_engine.errors import HubUnavailable\n"
        "from xlora_engine.sources.hub import local_folder\n"
        "try:\n"
        "    print(sorted(p.name for p in local_folder(sys.argv[1]).iterdir()))\n"
        "except HubUnavailable as error:\n"
        "    print(error.code, error)\n"
        "assert 'torch' not in sys.modules\n"
    )

    def ask(name: str, **settings: str) -> str:
        run = subprocess.run(
            [sys.executable, "-c", code, name],
            check=True,
            env=environment(hub, tmp_path / "home") | settings,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return run.stdout

    with hub_of({"owner/model": {"main": tmp_path / "repository"}}) as hub:
        assert ask("owner/model") == "['xlora_config.json']\n"
    assert ask("owner/model", HF_HUB_OFFLINE="1") == "['xlora_config.json']\n"
    unanswered = ask("owner/other", HF_HUB_OFFLINE="1")
    assert unanswered.startswith("ZOO-E380 there is no folder 'owner/other' here, and the hub gave none")
    assert "HF_ENDPOINT" in unanswered


def test_a_folder_of_the_name_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "model" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert local_folder("owner/model") == Path("owner/model")
    assert local_folder("owner/model", subfolder="below") == Path("owner/model/below")


@pytest.mark.parametrize("subfolder", ["..", "a/../../b", "/etc"])
def test_a_subfolder_does_not_lead_out(subfolder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="subfolder must be a folder below the model's own"):
        local_folder(tmp_path, subfolder=subfolder)


@pytest.mark.parametrize("name", ["owner/name", "lamm-mit/x-lora-gemma-7b", "a/B.c_d"])
def test_names_of_repositories(name: str) -> None:
    assert looks_like_repository(name)


@pytest.mark.parametrize("name", ["name", "/owner/name", "a/b/c", "./name", "../name", "owner/", "a b/c", ""])
def test_paths_that_are_no_repositories(name: str) -> None:
    assert not looks_like_repository(name)
