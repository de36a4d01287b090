"""The `zoo` command called in a test's own process, and a zoo with a few records for it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import zoo
from registry.entities import ExpertRecord, NewEvaluation
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import XLORA, write_adapter, write_base, write_composition, write_dataset


@dataclass(frozen=True)
class Answer:
    """The output and exit code of a command."""

    out: str
    err: str
    code: int

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ask(home: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            zoo.main(list(arguments))
        out, err = capsys.readouterr()
        assert "bug in zoo" not in err, err
        assert isinstance(ended.value.code, int)
        return Answer(out, err, ended.value.code)

    return run


@pytest.fixture
def catalogue(home: Path, filled_home: Path) -> Path:
    """A base model, bio in two versions, protein, a dataset and a composition of bio@1 and protein@1."""
    shutil.copytree(filled_home, home)
    return home


@pytest.fixture(scope="session")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that each test's `catalogue` is a copy of."""
    folder = tmp_path_factory.mktemp("catalogue")
    with Registry.open(Settings.from_env({"ZOO_HOME": str(folder / "home")})) as registry:
        base = registry.bases.register(write_base(folder / "base"), name="pico", source="here")
        versions = [
            registry.adapters.register(
                write_adapter(folder / f"{name}{seed}", seed=seed, rank=rank), name=name, domains=(domain,)
            )
            for name, seed, rank, domain in (
                ("bio", 1, 2, "biology"),
                ("bio", 2, 4, "biology"),
                ("protein", 3, 2, "proteins"),
            )
        ]
        dataset = registry.datasets.register(write_dataset(folder / "bio.eval.jsonl"))
        registry.evaluations.record(
            [
                NewEvaluation(
                    subject=f"adapter:{version.reference}",
                    task="bio",
                    metric="loss",
                    value=loss,
                    n=3,
                    dataset_digest=dataset.digest,
                )
                for version, loss in zip(versions, (0.9, 0.7, 2.5), strict=True)
            ]
        )
        registry.adapters.set_alias("bio", "champion", 2)
        experts = [
            ExpertRecord(
                position=position,
                name=versions[index].name,
                adapter_reference=versions[index].reference,
                weights_digest=versions[index].weights_digest,
            )
            for position, index in enumerate((0, 2))
        ]
        registry.compositions.register(
            write_composition(folder / "science", ["bio", "protein"]),
            name="science",
            base_digest=base.digest,
            experts=experts,
            method=XLORA,
            report={
                "subjects": ["uniform", "composed"],
                "scores": {
                    "composed": {"bio": {"loss": 0.71, "exact_match": 0.5}},
                    "uniform": {"bio": {"loss": 0.9, "exact_match": 0.5}},
                },
                "verdict": [{"task": "bio", "kept": True, "sentence": "bio: loss 0.710"}],
            },
        )
    return folder / "home"
