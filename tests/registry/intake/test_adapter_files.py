"""Adapter folders: those PEFT writes are read as they are, all others refused, and nothing in them is run."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import (
    AdapterConfigInvalid,
    ChangesNothing,
    InvalidAdapter,
    NotALora,
    PickleRefused,
    WeightsInvalid,
)
from registry.files.staging import Staging
from registry.intake.adapter_files import AdapterManifest, stage_adapter
from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_llama
from tests.registry.folders import write_adapter
from tests.registry.staged import read_adapter

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

#: (d_in, d_out) of pico_llama's projections.
PICO = {"q_proj": (32, 32), "k_proj": (32, 16), "v_proj": (32, 16), "o_proj": (32, 32), "gate_proj": (32, 64),
        "up_proj": (32, 64), "down_proj": (64, 32)}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def shapes(manifest: AdapterManifest) -> dict[str, tuple[int, int, int]]:
    return {path: (shape.rank, shape.d_in, shape.d_out) for path, shape in manifest.modules.items()}


@pytest.mark.parametrize(
    ("options", "ranks", "dtype"),
    [
        ({}, {}, "float32"),
        ({"use_rslora": True, "alpha": 16}, {}, "float32"),
        (
            {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
            {"model.layers.0.self_attn.q_proj": 2},
            "float32",
        ),
        ({"target_modules": ALL_PROJECTIONS}, {}, "float32"),
        ({"dtype": torch.bfloat16}, {}, "bfloat16"),
        ({"dtype": torch.float16, "layers_to_transform": [1]}, {}, "float16"),
        ({"init_lora_weights": "gaussian", "lora_dropout": 0.1}, {}, "float32"),
    ],
    ids=["plain", "rslora", "patterns", "every projection", "bfloat16", "one layer", "gaussian"],
)  # fmt: skip
def test_what_peft_saves_is_read_as_it_is(
    tmp_path: Path, options: dict[str, Any], ranks: dict[str, int], dtype: str
) -> None:
    manifest = read_adapter(pico_adapter(tmp_path / "a", seed=1, **options))
    layers = options.get("layers_to_transform", [0, 1])
    names = options.get("target_modules", ("q_proj", "v_proj"))
    expected = {
        path: (ranks.get(path, 4), *PICO[name])
        for layer in layers
        for name in names
        for path in [f"model.layers.{layer}.{'self_attn' if name in ALL_PROJECTIONS[:4] else 'mlp'}.{name}"]
    }
    assert shapes(manifest) == expected
    assert manifest.dtype == dtype
    assert manifest.parameter_count == sum(rank * (d_in + d_out) for rank, d_in, d_out in expected.values())
    assert manifest.size_bytes == (tmp_path / "a" / WEIGHTS).stat().st_size
    assert manifest.config.use_rslora is options.get("use_rslora", False)
    assert manifest.config.alpha == options.get("alpha", 8)
    assert manifest.files == ("README.md", CONFIG, WEIGHTS)
    assert manifest.warnings == ()


def test_all_linear_is_read_as_peft_resolved_it(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        pico_llama(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    assert len(read_adapter(tmp_path).modules) == 2 * len(ALL_PROJECTIONS)


def test_an_embedding_s_update_is_distinguished_from_a_linear_one(tmp_path: Path) -> None:
    manifest = read_adapter(pico_adapter(tmp_path / "a", seed=1, target_modules=("embed_tokens", "q_proj")))
    shape = manifest.modules["model.embed_tokens"]
    vocabulary = pico_llama().config.vocab_size
    assert (shape.is_embedding, shape.d_in, shape.d_out) == (True, vocabulary, 32)
    assert not manifest.modules["model.layers.0.self_attn.q_proj"].is_embedding


def test_the_stored_folder_computes_what_the_given_one_does(tmp_path: Path) -> None:
    """The configuration is written anew, so it must lead PEFT to the same model."""
    from peft import PeftModel

    given = pico_adapter(
        tmp_path / "a", seed=1, use_rslora=True, layers_to_transform=[1], rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 3},
    )  # fmt: skip
    stored = tmp_path / "stored"
    stored.mkdir()
    stage_adapter(given, Staging(stored))
    assert (stored / CONFIG).read_bytes() != (given / CONFIG).read_bytes()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        first = PeftModel.from_pretrained(pico_llama(), given)(tokens).logits
        second = PeftModel.from_pretrained(pico_llama(), stored)(tokens).logits
        base = pico_llama()(tokens).logits
    assert torch.equal(first, second)
    assert not torch.allclose(first, base)


@pytest.mark.parametrize(
    "fields",
    [{"target_modules": ["q_proj"]}, {"exclude_modules": ["v_proj"]}, {"layers_to_transform": [1]}],
)
def test_tensors_that_peft_would_pass_over_are_refused_by_their_module(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    folder = pico_adapter(tmp_path / "a", seed=1)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))
    with pytest.raises(WeightsInvalid, match=r"tensors of model\.layers\.0\.self_attn\.[qv]_proj, a module"):
        read_adapter(folder)


def test_an_adapter_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(pico_llama(), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(str(tmp_path))
    with pytest.raises(ChangesNothing, match="changes nothing"):
        read_adapter(tmp_path)


def test_a_dora_adapter_is_refused_by_the_name_of_its_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match="use_dora = True cannot be honoured: DoRA"):
        read_adapter(pico_adapter(tmp_path / "a", seed=1, use_dora=True))


def test_weights_are_known_again_whatever_their_metadata(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    save_file(load_file(folder / WEIGHTS), other / WEIGHTS, metadata={"author": "somebody"})
    assert read_adapter(folder).weights_digest == read_adapter(other).weights_digest


def test_the_licence_is_read_from_the_model_card(folder: Path) -> None:
    assert read_adapter(folder).licence is None
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# My adapter\n")
    assert read_adapter(folder).licence == "apache-2.0"


def test_card_and_licence_are_kept_and_all_else_is_left_with_one_note(folder: Path) -> None:
    for name in ("README.md", "LICENSE", "LICENCE.txt", "notes.txt", "tokenizer.json", "config.json"):
        (folder / name).write_text("x")
    (folder / "checkpoint-100").mkdir()
    (folder / "checkpoint-100" / "optimizer.pt").write_bytes(b"pickle")
    manifest = read_adapter(folder)
    assert manifest.files == ("LICENCE.txt", "LICENSE", "README.md", CONFIG, WEIGHTS)
    assert manifest.warnings == (
        (
            "left out unopened, because an adapter does not need it: of the base model (config.json);"
            " no file of an adapter (notes.txt); folders (checkpoint-100/)"
        ),
    )
    assert manifest.tokenizer.unreadable == ("tokenizer.json is not JSON: Expecting value at column 1",)


def test_modules_without_effect_are_warned_of(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_adapter(tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] *= 0
    save_file(tensors, folder / WEIGHTS)
    assert read_adapter(folder).warnings == ("the update is zero in 1 of 4 modules",)


class Canary:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


PICKLES = [
    "adapter_model.bin", "pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt",
    "rng_state.pth", "model.ckpt", "x.pkl", "x.pickle", "x.joblib", "x.npy", "x.npz", "ADAPTER_MODEL.BIN",
]  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_beside_good_weights_is_left_out_and_never_loaded(
    folder: Path, tmp_path: Path, name: str
) -> None:
    canary = tmp_path / "canary"
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    manifest = read_adapter(folder)
    assert not canary.exists()
    assert name in manifest.warnings[0]
    assert name not in manifest.files


def test_a_pickle_alone_is_refused_with_the_way_to_convert_it(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(PickleRefused, match=rf"adapter_model.bin is a pickle.*zoo convert {folder}"):
        read_adapter(folder)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_another_name_is_refused_and_never_loaded(
    folder: Path, tmp_path: Path, protocol: int
) -> None:
    canary = tmp_path / "canary"
    (folder / WEIGHTS).write_bytes(pickle.dumps(Canary(canary), protocol=protocol))
    with pytest.raises(PickleRefused, match="pickle under another name"):
        read_adapter(folder)
    assert not canary.exists()


def test_a_zip_under_another_name_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / WEIGHTS, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(PickleRefused, match="pickle under another name"):
        read_adapter(folder)


@pytest.mark.parametrize(
    "name",
    ["model.gguf", "adapter.py", "lib.so", "x.tar", "x.zip", "weights.safetensors", "x.exe", "noending",
     "adapter_config.json.bak", "LICENSE ", "notes\n.txt", "ｎotes.txt", "%2e%2e%2fx", ".hidden",
     "x" * 200 + ".txt"],
)  # fmt: skip
def test_a_file_of_another_kind_is_left_out_whatever_its_name(folder: Path, name: str) -> None:
    before = read_adapter(folder)
    (folder / name).write_bytes(b"x")
    manifest = read_adapter(folder)
    assert manifest.files == before.files
    assert manifest.warnings[0].startswith("left out unopened")
    assert manifest.warnings[0].isprintable()


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidAdapter, match=f"has no {name}"):
        read_adapter(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_folder_instead_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(InvalidAdapter, match=f"has no {name}"):
        read_adapter(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "README.md", "unheard-of"])
@pytest.mark.parametrize("kind", ["link", "pipe", "socket"])
def test_links_that_lead_out_and_pipes_are_never_opened(
    folder: Path, tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / name).unlink(missing_ok=True)
    if kind == "link":
        (folder / name).symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(folder / name)
    else:
        import socket

        monkeypatch.chdir(folder)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    if name in (CONFIG, WEIGHTS):
        with pytest.raises(InvalidAdapter, match=rf"{name} is a .*copy the folder with its links resolved"):
            read_adapter(folder)
    else:
        manifest = read_adapter(folder)
        assert name not in manifest.files
        assert f"{name}, a " in manifest.warnings[0]


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "adapter"
    if what == "a file":
        path.write_text("x")
    with pytest.raises(InvalidAdapter, match="adapter"):
        read_adapter(path)


def test_a_configuration_of_10_mb_is_refused_unread(folder: Path) -> None:
    (folder / CONFIG).write_bytes(b'{"a": "' + b"x" * 10_000_000 + b'"}')
    with pytest.raises(AdapterConfigInvalid, match="larger than the 1,048,576 bytes"):
        read_adapter(folder)


def test_a_text_of_10_mb_is_left_out(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"x" * 10_000_000)
    manifest = read_adapter(folder)
    assert "README.md" not in manifest.files
    assert "README.md, larger than 1,048,576 bytes" in manifest.warnings[0]


def test_another_kind_of_adapter_is_named(folder: Path) -> None:
    (folder / CONFIG).write_text(json.dumps({"peft_type": "XLORA"}))
    with pytest.raises(NotALora, match="'XLORA'"):
        read_adapter(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])
    with pytest.raises(WeightsInvalid, match="ends inside its tensors"):
        read_adapter(folder)


def test_a_rank_that_is_not_the_tensors_is_refused(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"r": 16}))
    with pytest.raises(WeightsInvalid, match="expected rank 16"):
        read_adapter(folder)


def test_reading_leaves_no_trace(folder: Path) -> None:
    before = sorted(folder.iterdir())
    read_adapter(folder)
    assert sorted(folder.iterdir()) == before


def test_all_that_is_wrong_comes_in_one_message(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"use_dora": True}))
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[:] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(InvalidAdapter, match=r"2 things are wrong with .*\n.*use_dora.*\n.*NaN or infinity"):
        read_adapter(folder)
    (folder / CONFIG).write_text("{")
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InvalidAdapter, match=r"2 things .*\n.*is not JSON.*\n.*a Git LFS pointer"):
        read_adapter(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_git_lfs_pointer_is_called_that(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(InvalidAdapter, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        read_adapter(folder)


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    digest = read_adapter(folder).weights_digest
    (folder / "real").mkdir()
    (folder / WEIGHTS).rename(folder / "real" / "x")
    (folder / WEIGHTS).symlink_to("real/x")
    assert read_adapter(folder).weights_digest == digest
