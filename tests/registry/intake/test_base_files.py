"""Base model folders: what transformers saves is read as it is, sharded or not; unsafe ones are refused."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.errors import InvalidBase
from registry.intake.base_weights import INDEX_FILE, SINGLE_FILE
from registry.intake.compatibility import compatibility_of, refused
from tests.pico import pico_base_folder
from tests.registry.folders import write_base
from tests.registry.staged import read_adapter, read_base

LAYER = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_base_folder(tmp_path_factory.mktemp("saved") / "base")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "base"))


def shard(folder: Path) -> dict[str, str]:
    """Spread the weights over two files; returns the index's weight map."""
    tensors = load_file(folder / SINGLE_FILE)
    (folder / SINGLE_FILE).unlink()
    weight_map = {
        name: f"model-{number % 2 + 1:05}-of-00002.safetensors" for number, name in enumerate(tensors)
    }
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def test_what_transformers_saves_is_read_as_it_is(folder: Path) -> None:
    manifest = read_base(folder)
    vocabulary = manifest.vocabulary_size
    assert manifest.modules == {
        "model.embed_tokens": (vocabulary, 32),
        "lm_head": (vocabulary, 32),
        **{f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in LAYER.items()},
    }
    assert (manifest.architecture, manifest.model_type, manifest.dtype) == (
        "LlamaForCausalLM",
        "llama",
        "float32",
    )
    assert (manifest.hidden_size, manifest.layer_count) == (32, 2)
    tensors = load_file(folder / SINGLE_FILE)
    assert manifest.parameter_count == sum(tensor.numel() for tensor in tensors.values())
    assert manifest.size_bytes == (folder / SINGLE_FILE).stat().st_size
    assert manifest.files == (
        "chat_template.jinja", "config.json", "generation_config.json", SINGLE_FILE, "tokenizer.json",
        "tokenizer_config.json",
    )  # fmt: skip
    assert manifest.warnings == ()


def test_the_same_model_saved_twice_has_one_identity(folder: Path, tmp_path: Path) -> None:
    again = read_base(pico_base_folder(tmp_path / "again"))
    assert again.digest == read_base(folder).digest
    assert read_base(pico_base_folder(tmp_path / "other", seed=1)).digest != again.digest


def test_sharding_changes_files_but_not_identity(folder: Path) -> None:
    whole = read_base(folder)
    weight_map = shard(folder)
    sharded = read_base(folder)
    assert (sharded.digest, sharded.modules) == (whole.digest, whole.modules)
    assert set(sharded.files) == {*whole.files, INDEX_FILE, *weight_map.values()} - {SINGLE_FILE}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("config.json", "config_digest"),
        ("tokenizer.json", "tokenizer_digest"),
        ("tokenizer_config.json", "tokenizer_digest"),
        ("chat_template.jinja", "chat_template_digest"),
    ],
)
def test_every_part_enters_the_identity(folder: Path, name: str, field: str) -> None:
    before = read_base(folder)
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("{", '{"x": 1, ', 1) if name.endswith(".json") else f"{text} ")
    after = read_base(folder)
    digests = [f"{part}_digest" for part in ("weights", "config", "tokenizer", "chat_template")]
    assert [part for part in digests if getattr(before, part) != getattr(after, part)] == [field]
    assert before.digest != after.digest


def test_texts_and_bystanders_are_not_part_of_the_identity(folder: Path) -> None:
    digest = read_base(folder).digest
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "LICENSE").write_text("Do what you want.")
    (folder / "picture.png").write_bytes(b"x")
    (folder / "consolidated.safetensors").write_bytes(b"x")
    (folder / ".gitattributes").write_text("x")
    (folder / "original").mkdir()
    (folder / "original" / "weights.pth").write_bytes(b"pickle")
    manifest = read_base(folder)
    assert (manifest.digest, manifest.licence) == (digest, "apache-2.0")
    assert {"README.md", "LICENSE"} < set(manifest.files)
    assert not {"picture.png", "consolidated.safetensors", "original", ".gitattributes"} & set(manifest.files)
    assert manifest.warnings == (
        "left out, because the model does not need it: consolidated.safetensors, picture.png",
    )


def test_bfloat16_is_told(tmp_path: Path) -> None:
    assert read_base(pico_base_folder(tmp_path / "base", dtype=torch.bfloat16)).dtype == "bfloat16"


def test_a_tied_head_is_a_module_though_it_has_no_weight(tmp_path: Path) -> None:
    folder = pico_base_folder(tmp_path / "base", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / SINGLE_FILE)
    manifest = read_base(folder)
    assert manifest.modules["lm_head"] == manifest.modules["model.embed_tokens"]


def test_a_conv1d_model_s_modules_are_output_by_input(tmp_path: Path) -> None:
    """GPT-2 keeps its weights the other way round; PEFT shapes A and B by the layer, not by the weight."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.pico import pico_tokenizer

    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=97, n_positions=16))
    model.save_pretrained(tmp_path / "base")
    pico_tokenizer().save_pretrained(tmp_path / "base")
    base = read_base(tmp_path / "base")
    assert base.modules["transformer.h.0.attn.c_attn"] == (96, 32)
    assert base.modules["transformer.h.0.mlp.c_proj"] == (32, 128)
    adapter = get_peft_model(
        model,
        LoraConfig(r=4, target_modules=["c_attn", "c_fc"], init_lora_weights=False, fan_in_fan_out=True),
    )
    adapter.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    assert not refused(
        compatibility_of(
            read_adapter(tmp_path / "adapter"), base.modules, "gpt2", architecture="GPT2LMHeadModel"
        )
    )


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pth", "x.pkl", "modeling_evil.py", "training_args.bin", "lib.so"]
)
def test_pickles_and_code_are_left_out_by_name_and_never_loaded(
    folder: Path, tmp_path: Path, name: str
) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "canary"),)

    (folder / name).write_bytes(pickle.dumps(Canary()))
    manifest = read_base(folder)
    assert name not in manifest.files
    assert manifest.warnings == (f"left out, because it could run code when it is loaded: {name}",)
    (folder / SINGLE_FILE).unlink()
    with pytest.raises(InvalidBase, match="has neither"):
        read_base(folder)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_is_refused_in_every_configuration(folder: Path, name: str) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": ["evil--t.T", None]}}))
    with pytest.raises(InvalidBase, match=f"{name}: auto_map makes transformers import code"):
        read_base(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("config.json", "config.json: No such file"),
        (SINGLE_FILE, "has neither model.safetensors nor"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_a_missing_part_is_named(folder: Path, name: str, reason: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidBase, match=reason):
        read_base(folder)


def test_a_gguf_file_in_the_folder_is_pointed_to(folder: Path) -> None:
    (folder / SINGLE_FILE).rename(folder / "model.gguf")
    with pytest.raises(InvalidBase, match=r"a \.gguf file is given by its own path"):
        read_base(folder)


def test_a_repository_in_the_hub_s_cache_is_followed(folder: Path, tmp_path: Path) -> None:
    digest = read_base(folder).digest
    repository = tmp_path / "models--acme--tiny"
    repository.mkdir()
    folder.rename(repository / "blobs")
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    assert read_base(snapshot).digest == digest
    assert read_base(repository).digest == digest


@pytest.mark.parametrize("name", ["config.json", SINGLE_FILE, "tokenizer.json", "whatever"])
def test_links_that_lead_out_and_pipes_are_refused(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/etc/passwd")
    with pytest.raises(
        InvalidBase,
        match=f"{name} is a symbolic link to .* outside .*; copy the folder with its links resolved",
    ):
        read_base(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InvalidBase, match=f"{name} is a named pipe"):
        read_base(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    os.truncate(folder / SINGLE_FILE, 5000)
    with pytest.raises(InvalidBase, match="ends inside"):
        read_base(folder)


def test_an_index_without_the_files_of_tensors_is_refused(folder: Path) -> None:
    weight_map = shard(folder)
    first, second = sorted(set(weight_map.values()))
    moved = {name: second if file == first else first for name, file in weight_map.items()}
    for wrong in (moved, {**weight_map, "extra.weight": first}, dict(list(weight_map.items())[1:])):
        write_index(folder, wrong)
        with pytest.raises(InvalidBase, match=r"does not tell where \d+ tensors are"):
            read_base(folder)


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "gone.safetensors",
        "config.json",
        "",
        1,
        None,
    ],
)
def test_an_index_cannot_lead_elsewhere(folder: Path, file: Any) -> None:
    weight_map = shard(folder)
    write_index(folder, weight_map | {next(iter(weight_map)): file})
    with pytest.raises(InvalidBase, match="which is no safetensors file in"):
        read_base(folder)


@pytest.mark.parametrize("weight_map", [{}, [], None, "x"])
def test_an_index_without_a_map_is_refused(folder: Path, weight_map: Any) -> None:
    shard(folder)
    write_index(folder, weight_map)
    with pytest.raises(InvalidBase, match="weight_map must map tensors to files"):
        read_base(folder)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match="No such file"):
        read_base(tmp_path / "nowhere")


@pytest.mark.processes
def test_torch_is_not_needed(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_base(tmp_path / "base")
    (tmp_path / "staged").mkdir()
    code = (
        "import sys, pathlib, registry.intake.base_files as b, registry.files.staging as s\n"
        f"staging = s.Staging(pathlib.Path({str(tmp_path / 'staged')!r}))\n"
        f"b.stage_base(pathlib.Path({str(tmp_path / 'base')!r}), staging)\n"
        "assert not {'torch', 'transformers', 'sqlalchemy', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
