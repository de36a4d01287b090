"""What is saved is what is loaded, bit for bit, or it is refused with the reason."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.conftest import Mixture
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import (
    ExpertChanged,
    NotRepresentable,
    ReloadMismatch,
    SavedFileUnreadable,
    SavedModelInvalid,
)
from xlora_engine.mixture.layer import MixtureLayer
from xlora_engine.model import XLoraModel
from xlora_engine.saved import zoo_format
from xlora_engine.saved.formats import EXPORTED, read_model, write_model
from xlora_engine.saved.zoo_format import read_zoo
from xlora_engine.sources.adapter_weights import Expert, write_expert

ROOT = Path(__file__).parents[3]

#: What is saved and loaded again in a fresh process: configuration, and the base's dtype.
SAVED: dict[str, tuple[dict[str, Any], str]] = {
    "depth 1": ({"xlora_depth": 1, "layerwise_scalings": False}, "float32"),
    "depth 1, layerwise": ({"xlora_depth": 1}, "float32"),
    "depth 2": ({"xlora_depth": 2, "layerwise_scalings": False}, "float32"),
    "depth 2 without dropout": ({"xlora_depth": 2, "xlora_dropout_p": 0.0}, "float32"),
    "depth 4": ({"xlora_depth": 4}, "float32"),
    "depth 4 without dropout": ({"xlora_depth": 4, "xlora_dropout_p": 0.0}, "float32"),
    "bfloat16": ({"xlora_depth": 2}, "bfloat16"),
    "bfloat16, depth 1": ({"xlora_depth": 1, "layerwise_scalings": False}, "bfloat16"),
    "without bias": ({"xlora_depth": 2, "use_bias": False}, "float32"),
    "top 2 and a scaling pass of a third": ({"top_k_lora": 2, "scaling_pass_value": 1 / 3}, "float32"),
    "absent experts renormalised": ({"absent_experts": "renormalise", "xlora_depth": 1}, "float32"),
    "best expert at unit scale": ({"unit_top_1": True, "xlora_depth": 1}, "float32"),
    "sigmoids with a floor": ({"enable_softmax": False, "sigmoid_floor": 0.1, "xlora_depth": 1}, "float32"),
    "trained experts": ({"use_trainable_adapters": True}, "float32"),
    "trained experts in bfloat16": ({"use_trainable_adapters": True}, "bfloat16"),
}


def train_a_step(model: XLoraModel, token_ids: Tensor) -> None:
    model.train()
    model(token_ids, labels=token_ids).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.05 * parameter.grad)
                parameter.grad = None
    model.eval()


@pytest.mark.processes
def test_a_moved_folder_gives_identical_logits_in_a_fresh_process(
    expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    experts = {
        name: Path(shutil.copytree(folder, tmp_path / "experts" / name))
        for name, folder in expert_folders.items()
    }
    save_file({"token_ids": token_ids}, tmp_path / "tokens")
    jobs, expected = [], {}
    for name, (config, dtype) in SAVED.items():
        base = pico_llama()
        nn.Module.to(base, getattr(torch, dtype))
        fields = {"xlora_size": 16, "layerwise_scalings": True} | config
        model = XLoraModel.from_adapters(base, experts, XLoraConfig(**fields))
        train_a_step(model, token_ids)
        with torch.no_grad():
            expected[name] = model(token_ids).logits
        model.save_pretrained(tmp_path / "here" / name)
        shutil.move(tmp_path / "here" / name, tmp_path / "there" / name)
        jobs += [
            str(tmp_path / "there" / name),
            str(tmp_path / "tokens"),
            dtype,
            str(tmp_path / f"{name}.out"),
        ]
    shutil.rmtree(tmp_path / "experts")

    script = Path(__file__).with_name("answer_in_fresh_process.py")
    subprocess.run([sys.executable, script, *jobs], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})

    for name, logits in expected.items():
        assert torch.equal(load_file(tmp_path / f"{name}.out")["logits"], logits), name


def test_patterns_keep_their_order_when_a_model_is_saved(tmp_path: Path) -> None:
    folder = pico_adapter(tmp_path / "a", seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    # The general first, so the particular never holds; sorted by name it would.
    config["alpha_pattern"] = {"v_proj": 64, "model.layers.0.self_attn.v_proj": 2, "q_proj": 3}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = XLoraModel.from_adapters(pico_llama(), {"a": folder}, XLoraConfig())
    token_ids = torch.arange(6)[None]
    model.save_pretrained(tmp_path / "saved")
    again = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())
    with torch.no_grad():
        assert torch.equal(model.eval()(token_ids).logits, again.eval()(token_ids).logits)


def test_a_loaded_model_is_saved_again_with_the_same_bytes(
    mixture: Mixture, token_ids: Tensor, tmp_path: Path
) -> None:
    mixture().save_pretrained(tmp_path / "one")

    XLoraModel.from_pretrained(tmp_path / "one", pico_llama()).save_pretrained(tmp_path / "two")

    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 3 + 2 * 3 + len([f for f in files if (tmp_path / "one" / f).is_dir()])
    for file in files:
        if (tmp_path / "one" / file).is_file():
            assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


def test_a_saved_model_is_written_again_without_its_base_with_the_same_bytes(
    mixture: Mixture, tmp_path: Path
) -> None:
    mixture().save_pretrained(tmp_path / "one")

    write_model(read_model(tmp_path / "one"), tmp_path / "two", "zoo")

    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 3 + 2 * 3
    for file in files:
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


@pytest.mark.parametrize("layout", EXPORTED)
def test_a_model_of_another_format_has_no_reload_check_to_write(
    layout: str, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    experts = dict.fromkeys(("first-one", "second-one"), expert_folders["bio"])
    XLoraModel.from_adapters(pico_llama(), experts).export(tmp_path / "other", layout, base_id="owner/name")

    with pytest.raises(NotRepresentable, match=r"reload_check: .* use from_pretrained, then save_pretrained"):
        write_model(read_model(tmp_path / "other"), tmp_path / "zoo", "zoo")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_loaded_model_is_in_eval_mode_with_the_head_alone_to_train(
    mixture: Mixture, tmp_path: Path
) -> None:
    mixture().save_pretrained(tmp_path / "saved")

    model = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())

    assert not model.training
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in model.head.parameters()}


def test_no_written_file_contains_a_path_of_this_machine(tmp_path: Path) -> None:
    adapters = {name: pico_adapter(tmp_path / name, seed=i) for i, name in enumerate("ab")}
    base = pico_llama()
    base.config._name_or_path = base.name_or_path = str(tmp_path)
    for folder in adapters.values():
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path)}))

    XLoraModel.from_adapters(base, adapters).save_pretrained(tmp_path / "saved")

    for file in (tmp_path / "saved").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file
            assert str(Path.home()).encode() not in file.read_bytes(), file


def test_saving_while_scalings_are_fixed_saves_the_mixture(
    mixture: Mixture, token_ids: Tensor, tmp_path: Path
) -> None:
    model = mixture()
    with model.disabled():
        model.save_pretrained(tmp_path / "saved")

    loaded = XLoraModel.from_pretrained(tmp_path / "saved", pico_llama()).eval()
    with torch.no_grad():
        assert torch.equal(loaded(token_ids).logits, model(token_ids).logits)


def test_a_saved_folder_can_be_read_by_whoever_may_read_its_parent(mixture: Mixture, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()

    mixture().save_pretrained(tmp_path / "saved")

    assert stat.S_IMODE((tmp_path / "saved").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def intact(mixture: Mixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact") / "saved"
    mixture().save_pretrained(folder)
    return folder


@pytest.fixture
def saved(intact: Path, tmp_path: Path) -> Path:
    """A saved model that a test may damage."""
    return Path(shutil.copytree(intact, tmp_path / "saved"))


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "xlora.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def swap_experts(folder: Path) -> None:
    one, two, aside = (folder / "experts" / name for name in ("bio", "mat-3", "aside"))
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def swap_in_manifest(manifest: dict[str, Any]) -> None:
    """Swap experts together with their digests, so that every digest still matches."""
    adapters = manifest["config"]["adapters"]
    adapters[0], adapters[1] = adapters[1], adapters[0]


WEIGHTS = "adapter_model.safetensors"
Damage = Callable[[Path], Any]

DAMAGES: dict[str, tuple[Damage, type[SavedModelInvalid], str]] = {
    "no folder": (shutil.rmtree, SavedFileUnreadable, "cannot read"),
    "no manifest": (lambda f: (f / "xlora.json").unlink(), SavedFileUnreadable, "save_pretrained"),
    "no head": (lambda f: (f / "head.safetensors").unlink(), SavedFileUnreadable, "is missing"),
    "no reload check": (lambda f: (f / "probe.safetensors").unlink(), SavedFileUnreadable, "is missing"),
    "no expert": (lambda f: shutil.rmtree(f / "experts" / "bio"), SavedFileUnreadable, "is missing"),
    "no expert config": (
        lambda f: (f / "experts" / "bio" / "adapter_config.json").unlink(),
        SavedFileUnreadable,
        "is missing",
    ),
    "a flipped bit in the head": (
        lambda f: flip_last_byte(f / "head.safetensors"),
        SavedFileUnreadable,
        "not what was saved",
    ),
    "a flipped bit in the reload check": (
        lambda f: flip_last_byte(f / "probe.safetensors"),
        SavedFileUnreadable,
        "not what was saved",
    ),
    "a flipped bit in an expert": (
        lambda f: flip_last_byte(f / "experts" / "bio" / WEIGHTS),
        ExpertChanged,
        "not what was saved",
    ),
    "an expert's alpha changed": (
        lambda f: (f / "experts" / "bio" / "adapter_config.json").write_text("{}"),
        ExpertChanged,
        "not what was saved",
    ),
    "half a head": (lambda f: cut(f / "head.safetensors"), SavedFileUnreadable, "not what was saved"),
    "swapped experts": (swap_experts, ExpertChanged, "not what was saved"),
    "experts swapped in the manifest": (
        lambda f: change_manifest(f, swap_in_manifest),
        ReloadMismatch,
        "differ from those saved by",
    ),
    "another temperature in the manifest": (
        lambda f: change_manifest(f, lambda m: m["config"].update(softmax_temperature=9.0)),
        ReloadMismatch,
        "differ from those saved by",
    ),
    "another depth in the manifest": (
        lambda f: change_manifest(f, lambda m: m["config"].update(xlora_depth=1)),
        SavedFileUnreadable,
        "does not fit",
    ),
    "a configuration out of range": (
        lambda f: change_manifest(f, lambda m: m["config"].update(xlora_depth=0)),
        SavedFileUnreadable,
        "xlora_depth must be a whole number of at least 1",
    ),
    "an expert's name that climbs out": (
        lambda f: change_manifest(f, lambda m: m["config"].update(adapters=["../../x"])),
        SavedFileUnreadable,
        "adapters must be a list of different entries, each a name of",
    ),
    "layers in another order": (
        lambda f: change_manifest(f, lambda m: m["layers"].reverse()),
        SavedFileUnreadable,
        "in that order",
    ),
    "no digest of the weights": (
        lambda f: change_manifest(f, lambda m: m["experts"]["bio"].pop(WEIGHTS)),
        SavedFileUnreadable,
        "damaged",
    ),
    "no experts in the manifest": (
        lambda f: change_manifest(f, lambda m: m.update(experts=[])),
        SavedFileUnreadable,
        "damaged",
    ),
    "a configuration that is no object": (
        lambda f: change_manifest(f, lambda m: m.update(config="x")),
        SavedFileUnreadable,
        "damaged",
    ),
    "no dtype": (lambda f: change_manifest(f, lambda m: m.pop("base")), SavedFileUnreadable, "damaged"),
    "half a manifest": (lambda f: cut(f / "xlora.json"), SavedFileUnreadable, "cannot read"),
    "a manifest of binary": (
        lambda f: (f / "xlora.json").write_bytes(b"\xff\xfe"),
        SavedFileUnreadable,
        "cannot read",
    ),
    "a manifest too deep": (
        lambda f: (f / "xlora.json").write_text("[" * 99_999),
        SavedFileUnreadable,
        "cannot read",
    ),
    "a manifest of a list": (
        lambda f: (f / "xlora.json").write_text("[]"),
        SavedFileUnreadable,
        "must hold a JSON object",
    ),
    "a newer format": (
        lambda f: change_manifest(f, lambda m: m.update(format_version=2)),
        SavedFileUnreadable,
        r"format \('adapter-zoo/xlora', 2\), this version reads",
    ),
    "another format": (
        lambda f: change_manifest(f, lambda m: m.update(format="other")),
        SavedFileUnreadable,
        "format",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_and_the_base_left_as_it_was(
    damage: str, saved: Path, token_ids: Tensor
) -> None:
    spoil, refusal, reason = DAMAGES[damage]
    spoil(saved)
    base = pico_llama()

    with pytest.raises(SavedModelInvalid, match=reason) as refused:
        XLoraModel.from_pretrained(saved, base)

    assert type(refused.value) is refusal
    assert not any(isinstance(module, MixtureLayer) for module in base.modules())
    assert torch.equal(base(token_ids).logits, pico_llama()(token_ids).logits)


def test_another_base_of_the_same_shape_is_refused_by_its_answers(saved: Path) -> None:
    other = pico_llama(seed=1)

    with pytest.raises(ReloadMismatch, match="load it on the base model it was trained on"):
        XLoraModel.from_pretrained(saved, other)
    assert XLoraModel.from_pretrained(saved, other, verify=False).config.adapters == (
        "bio",
        "protein.v2",
        "mat-3",
    )


def test_a_base_that_was_trained_on_a_little_is_refused_too(saved: Path) -> None:
    base = pico_llama()
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight.mul_(1.01)

    with pytest.raises(ReloadMismatch):
        XLoraModel.from_pretrained(saved, base)


def test_the_same_base_in_another_dtype_is_welcome(saved: Path) -> None:
    base = pico_llama()
    nn.Module.to(base, torch.bfloat16)

    assert XLoraModel.from_pretrained(saved, base).dtype == torch.bfloat16


def test_a_bfloat16_mixture_that_adapts_embeddings_is_welcome_in_float32(tmp_path: Path) -> None:
    expert = pico_adapter(tmp_path / "expert", seed=1, target_modules=("embed_tokens", "q_proj"))
    half = pico_llama()
    nn.Module.to(half, torch.bfloat16)
    mixture = XLoraModel.from_adapters(half, {"expert": expert})
    mixture.save_pretrained(tmp_path / "saved")

    assert mixture.dtype == torch.bfloat16
    assert XLoraModel.from_pretrained(tmp_path / "saved", pico_llama()).dtype == torch.float32


def test_another_base_in_bfloat16_is_refused(saved: Path) -> None:
    other = pico_llama(seed=1)
    nn.Module.to(other, torch.bfloat16)

    with pytest.raises(ReloadMismatch):
        XLoraModel.from_pretrained(saved, other)


# ---------------------------------------------------------------- saving over what is there


@contextmanager
def interrupted_by(interrupt: Callable[[], None]) -> Iterator[None]:
    """Inside, saving is interrupted when one expert is written."""

    def write(folder: Path, expert: Expert, updates: Any) -> None:
        if expert.name == "protein.v2":
            interrupt()
        write_expert(folder, expert, updates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo_format, "write_expert", write)
        yield


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


def test_an_interrupted_save_leaves_nothing_new_and_the_old_folder_whole(
    mixture: Mixture, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    mixture().save_pretrained(tmp_path / "saved")
    model = XLoraModel.from_adapters(pico_llama(), expert_folders)

    for name in ("saved", "new"):
        with pytest.raises(KeyboardInterrupt), interrupted_by(press_ctrl_c):
            model.save_pretrained(tmp_path / name)

    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())


@pytest.mark.processes
def test_a_killed_save_leaves_the_old_folder_whole_and_no_half_one_by_its_name(
    mixture: Mixture, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    mixture().save_pretrained(tmp_path / "saved")
    child = os.fork()
    if child == 0:  # pragma: no cover - ends by its own signal
        with interrupted_by(lambda: os.kill(os.getpid(), signal.SIGKILL)):
            XLoraModel.from_adapters(pico_llama(), expert_folders).save_pretrained(tmp_path / "saved")
        os._exit(1)
    _, status = os.waitpid(child, 0)

    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["saved"]
    XLoraModel.from_pretrained(tmp_path / "saved", pico_llama())


def test_saving_again_replaces_the_saved_model_and_keeps_other_files(
    mixture: Mixture, expert_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    mixture().save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    two = {name: expert_folders[name] for name in ("bio", "mat-3")}

    XLoraModel.from_adapters(pico_llama(), two).save_pretrained(folder)

    assert (folder / "README.md").read_text() == "mine"
    assert sorted(path.name for path in (folder / "experts").iterdir()) == ["bio", "mat-3"]
    assert read_zoo(folder).config.adapters == ("bio", "mat-3")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_folder_with_other_files_keeps_them(mixture: Mixture, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    mixture().save_pretrained(tmp_path)

    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert read_zoo(tmp_path).config.adapters == ("bio", "protein.v2", "mat-3")


def test_a_folder_whose_experts_are_somebody_elses_is_not_touched(mixture: Mixture, tmp_path: Path) -> None:
    (tmp_path / "experts").mkdir()
    (tmp_path / "experts" / "thesis.txt").write_text("mine")

    with pytest.raises(SavedModelInvalid, match="it holds experts; save to another folder"):
        mixture().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["experts", "thesis.txt"]
