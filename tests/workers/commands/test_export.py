"""`zoo export`: a registered composition becomes a folder that others read, with the same logits."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import zoo
from registry.entities import ExpertRecord
from registry.service import Registry
from registry.settings import Settings
from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_base_folder, pico_llama
from tests.registry.folders import XLORA
from workers.requests.exports import ADAPTER_EXPORTS, EXPORT_FORMATS
from workers.requests.methods import METHODS
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import SavedFileUnreadable, SavedModelUnwritable
from xlora_engine.model import XLoraModel
from xlora_engine.saved.adapter_formats import ADAPTER_FORMATS
from xlora_engine.saved.formats import EXPORTED, format_of
from xlora_engine.sources.new_folder import filling

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, two adapters for it, and a composition of both."""
    root = tmp_path_factory.mktemp("saved")
    pico_base_folder(root / "pico")
    adapters = {
        name: pico_adapter(root / name, seed=seed, target_modules=ALL_PROJECTIONS)
        for seed, name in enumerate(("bio", "protein"))
    }
    config = XLoraConfig(xlora_depth=2, xlora_size=8, layerwise_scalings=True)
    XLoraModel.from_adapters(pico_llama(), adapters, config).save_pretrained(root / "science")
    return root


@pytest.fixture
def run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command, in a zoo that has `science` on record."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    with Registry.open(Settings.from_env(os.environ)) as registry:
        base = registry.bases.register(saved / "pico", name="pico", source="owner/pico")
        experts = []
        for position, name in enumerate(("bio", "protein")):
            version = registry.adapters.register(saved / name, name=name)
            experts.append(
                ExpertRecord(
                    position=position,
                    name=name,
                    adapter_reference=version.reference,
                    weights_digest=version.weights_digest,
                )
            )
        registry.compositions.register(
            saved / "science",
            name="science",
            base_digest=base.digest,
            experts=experts,
            method=XLORA,
            report={},
        )

    def ask(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            zoo.main(["export", *arguments])
        assert isinstance(ended.value.code, int)
        return (ended.value.code, *capsys.readouterr())

    return ask


def test_every_format_that_can_be_written_is_offered() -> None:
    assert sorted(EXPORT_FORMATS) == sorted({"zoo", *EXPORTED, *ADAPTER_FORMATS})
    assert list(ADAPTER_EXPORTS) == list(ADAPTER_FORMATS)


@pytest.mark.parametrize("layout", METHODS["xlora"].exports)
def test_an_exported_composition_answers_as_the_registered_one(
    layout: str, saved: Path, run: Run, tmp_path: Path
) -> None:
    code, out, err = run("science", str(tmp_path / "out"), "--format", layout, "--json")

    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "composition": "science@1",
        "format": layout,
        "folder": str((tmp_path / "out").resolve()),
    }
    assert format_of(tmp_path / "out") == layout
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        logits, expected = (
            XLoraModel.from_pretrained(folder, pico_llama())(ids).logits
            for folder in (tmp_path / "out", saved / "science")
        )
    assert (logits - expected).abs().max() < 1e-5


def test_the_base_models_name_on_the_hub_is_where_it_was_registered_from(run: Run, tmp_path: Path) -> None:
    assert run("science", str(tmp_path / "a"), "--format", "mistralrs")[0] == 0
    assert run("science", str(tmp_path / "b"), "--format", "mistralrs", "--base-id", "other/name")[0] == 0

    named = [json.loads((tmp_path / x / "xlora-ordering.json").read_text())["base_model_id"] for x in "ab"]
    assert named == ["owner/pico", "other/name"]


@pytest.mark.parametrize("layout", ADAPTER_EXPORTS)
def test_an_exported_adapter_answers_as_the_registered_one(
    layout: str, saved: Path, run: Run, tmp_path: Path
) -> None:
    code, out, err = run("bio", str(tmp_path / "out"), "--format", layout, "--json")

    assert (code, err) == (0, "")
    said = json.loads(out)
    folder = tmp_path / "out"
    assert (said.pop("adapter"), said.pop("format"), said.pop("folder")) == ("bio@1", layout, str(folder))
    assert said.keys() == {"peft": set(), "vllm": {"max_lora_rank"}, "merged": {"dtype", "rounding"}}[layout]
    ids = torch.arange(3, 12)[None]
    expected = alone(saved / "bio", pico_llama(), ids)
    if layout == "merged":
        with torch.no_grad():
            found = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    else:
        found = alone(folder, pico_llama(), ids)
    assert (found - expected).abs().max() < 1e-5


@torch.no_grad()
def alone(folder: Path, base: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    model = XLoraModel.from_adapters(base, {"bio": folder})
    with model.fixed_scalings(model.constant_scalings((1.0,))):
        logits: torch.Tensor = model(ids).logits
    return logits


def test_an_adapter_is_written_as_peft_saves_it_unless_something_else_is_asked(
    run: Run, tmp_path: Path
) -> None:
    code, _, said = run("bio", str(tmp_path / "out"), "--base-id", "other/name")
    assert (code, said) == (0, "")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "other/name")


def test_rounding_and_the_rank_to_serve_with_are_said_to_people(run: Run, tmp_path: Path) -> None:
    _, out, said = run("bio", str(tmp_path / "half"), "--format", "merged", "--dtype", "bfloat16")
    assert "bfloat16" in out
    assert re.search(r"rounding the sums to bfloat16 changes what the adapter adds by \d\.\d\d% of it", said)
    assert "--max-lora-rank 8" in run("bio", str(tmp_path / "vllm"), "--format", "vllm")[2]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ("bio", "--format", "xlora"),
            "--format must be one of peft, vllm, merged for an adapter",
        ),
        (("bio", "--with-base"), "--with-base must be left out for an adapter"),
        (("bio", "--dtype", "float16"), "--dtype must be left out with the format peft"),
        (("science", "--format", "merged"), "--format must be one of zoo, xlora, peft, mistralrs for a"),
        (("science", "--dtype", "float16"), "--dtype must be left out for a composition"),
        (("pico",), "SUBJECT must be an adapter or a composition: a base model is exported as it was"),
    ],
)
def test_what_does_not_fit_what_is_exported_is_refused(
    asked: tuple[str, ...], said: str, run: Run, tmp_path: Path
) -> None:
    subject, *options = asked
    code, out, err = run(subject, str(tmp_path / "out"), *options)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "out").exists()


def test_the_base_model_is_written_beside_where_the_format_has_a_place_for_it(
    run: Run, tmp_path: Path
) -> None:
    assert run("science", str(tmp_path / "out"), "--format", "mistralrs", "--with-base")[0] == 0
    base = tmp_path / "out" / "base"
    ordering = json.loads((tmp_path / "out" / "xlora-ordering.json").read_text())
    assert ordering["base_model_id"] == str(base)
    assert (base / "tokenizer.json").is_file()

    code, _, err = run("science", str(tmp_path / "peft"), "--format", "peft", "--with-base")
    assert (code, (tmp_path / "peft").exists()) == (2, False)
    assert "--with-base must be left out with the format peft" in err


@pytest.mark.parametrize("layout", ["zoo", "peft"])
def test_a_folder_that_holds_something_is_not_touched(layout: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")

    code, out, err = run("science", str(tmp_path / "out"), "--format", layout)

    assert (code, out) == (1, "")
    assert "ZOO-E320" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_an_unknown_composition_exits_with_3_and_an_unknown_format_with_2(run: Run, tmp_path: Path) -> None:
    assert run("sciense", str(tmp_path / "out"))[0] == 3
    assert run("science", str(tmp_path / "out"), "--format", "gguf")[0] == 2
    assert not (tmp_path / "out").exists()


def test_an_export_without_a_base_or_with_its_own_path_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.jobs.export._hub_name", lambda *_: None)
    _, _, said = run("science", str(tmp_path / "a"), "--format", "peft")
    assert "names no base model" in said
    assert "--base-id" in said
    assert (str(tmp_path / "a") in said) == (str(tmp_path / "a") in _configurations(tmp_path / "a"))
    # The zoo's own format holds no path, so there is nothing to say of it.
    assert run("science", str(tmp_path / "b"), "--base-id", "owner/x")[2] == ""


def _configurations(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.json"))


@pytest.mark.parametrize("layout", ["zoo", "peft"])
def test_every_exported_file_has_the_mode_of_a_new_file(layout: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert run("science", str(tmp_path / "out"), "--format", layout)[0] == 0
    modes = {path.stat().st_mode for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_an_unwritable_target_is_reported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, out, said = run("science", str(tmp_path / "file" / "out"))
    assert (code, out) == (1, "")
    assert said.startswith(f"error ZOO-E328: cannot write {tmp_path / 'file' / 'out'}: ")


def test_an_unreadable_source_is_not_reported_as_an_unwritable_target(tmp_path: Path) -> None:
    gone, full = tmp_path / "gone.safetensors", tmp_path / "full.safetensors"
    full.write_bytes(b"weights")
    out = tmp_path / "out"

    def fill(source: Path, name: str) -> None:
        with filling(out) as staging:
            (staging / "full").symlink_to("/dev/full")
            shutil.copyfile(source, staging / name)

    def fill_as_a_fast_copy_fails() -> None:
        with filling(out) as staging:
            raise OSError(errno.ENOSPC, "No space left on device", str(full), None, str(staging / "weights"))

    with pytest.raises(SavedFileUnreadable, match=f"cannot read {gone}: No such file"):
        fill(gone, "weights")
    with pytest.raises(SavedModelUnwritable, match=f"cannot write {out}: No space left"):
        fill(full, "full")
    with pytest.raises(SavedModelUnwritable, match=f"cannot write {out}: No space left"):
        fill_as_a_fast_copy_fails()
    with pytest.raises(SavedModelUnwritable, match=f"cannot write {out}: No such file"):
        fill(full, "nowhere/weights")
    assert [path.name for path in tmp_path.iterdir()] == ["full.safetensors"]
