"""The benchmark runs on any base model and composition, and its arithmetic is right."""

import io
import json
from pathlib import Path

import pytest
import torch

from benchmarks.contenders import CONTENDERS
from benchmarks.process import serve
from benchmarks.ratios import summarise, table
from benchmarks.subject import Subject
from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_base_folder, pico_llama
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A pico base model, three experts and an untrained head."""
    root = tmp_path_factory.mktemp("subject")
    experts = {
        name: pico_adapter(root / name, seed=seed, rank=2, target_modules=ALL_PROJECTIONS)
        for seed, name in enumerate(("bio", "protein", "materials"))
    }
    config = XLoraConfig(layerwise_scalings=True, xlora_depth=2, xlora_size=8)
    XLoraModel.from_adapters(pico_llama(), experts, config).save_pretrained(root / "composition")
    made = Subject(base=pico_base_folder(root / "base"), experts=experts, composition=root / "composition")
    made.write(root / "subject.json")
    return Subject.read(root / "subject.json")


@pytest.mark.parametrize("contender", CONTENDERS)
def test_every_contender_does_every_task(
    contender: str, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        {"task": task, "repetition": 0, "new_tokens": 2}
        for task in ("generate, batch 1", "score", "training step")
    ]
    lines = io.StringIO("\n".join(json.dumps(task) for task in tasks))

    serve(contender, subject, device_name="cpu", threads=torch.get_num_threads(), tasks=lines)

    load, generated, scored, trained = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    for found in (load, generated, scored):
        assert found["seconds"] > 0
        assert found["peak_bytes"] > 0
    assert (trained is None) == (contender == "base")


def test_peft_and_the_engine_are_given_the_same_model(subject: Subject) -> None:
    ids = torch.randint(3, 250, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (
            CONTENDERS[name](pico_llama(), subject).score(ids).logits  # type: ignore[attr-defined]
            for name in ("ours", "peft")
        )

    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-3)


def test_medians_are_compared_with_the_first_contenders() -> None:
    results = summarise(
        {
            ("score", "base"): [(2.0, 1.0, 100.0), (4.0, 2.0, 100.0), (3.0, 3.0, 100.0)],
            ("score", "ours"): [(6.0, 3.0, 150.0)],
        }
    )

    rows = table(results).splitlines()[2:]

    assert rows == [
        "| score | base | 3.00 | 1.00 | 1.00 | 100 | 3 |",
        "| score | ours | 6.00 | 2.00 | 1.50 | 150 | 1 |",
    ]


def test_a_subject_is_read_from_a_file_written_by_hand(tmp_path: Path) -> None:
    fields = {"base": "b", "experts": {"bio": "e"}, "composition": "c"}
    (tmp_path / "subject.json").write_text(json.dumps(fields))

    assert Subject.read(tmp_path / "subject.json") == Subject(
        base=Path("b"), experts={"bio": Path("e")}, composition=Path("c")
    )
