"""Base models that no command can use, or only some: said when they are registered, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from registry.errors import InvalidBase
from tests.registry.folders import VOCABULARY, write_base
from tests.registry.staged import read_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def change(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_base_that_can_be_used_has_no_warning(folder: Path) -> None:
    assert read_base(folder).warnings == ()


@pytest.mark.parametrize("template", [None, ""])
def test_a_missing_chat_template_is_said_with_the_way_out(template: str | None, folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    change(folder, "tokenizer_config.json", chat_template=template)
    (warning,) = read_base(folder).warnings
    assert "no chat template" in warning
    assert "add chat_template.jinja to its folder and register that" in warning


@pytest.mark.parametrize(
    "templates",
    [
        [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}],
        {"rag": "x", "tool_use": "y"},
    ],
)
def test_named_templates_without_a_default_are_said(templates: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    change(folder, "tokenizer_config.json", chat_template=templates)
    (warning,) = read_base(folder).warnings
    assert "(rag, tool_use) have no default" in warning


def test_named_templates_with_a_default_are_fine(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    change(folder, "tokenizer_config.json", chat_template=[{"name": "default", "template": "x"}])
    assert read_base(folder).warnings == ()


def test_a_missing_head_of_an_untied_model_is_refused(folder: Path) -> None:
    change(folder, "config.json", tie_word_embeddings=False)
    with pytest.raises(InvalidBase, match=r"the weights hold none \(lm_head or embed_out or output\)"):
        read_base(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert read_base(folder).warnings == ()


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"vocab": {"a": VOCABULARY - 1, "<tool>": VOCABULARY}}},
        {"model": {"vocab": {}}, "added_tokens": [{"id": VOCABULARY, "content": "<tool>"}]},
        {"model": {"vocab": [[f"t{i}", 0.0] for i in range(VOCABULARY)] + [["<tool>", 0.0]]}},
    ],
)
def test_tokens_without_an_embedding_are_said(tokenizer: dict[str, Any], folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (warning,) = read_base(folder).warnings
    assert warning.startswith("its tokenizer has 1 tokens without an embedding ('<tool>')")


def test_a_corrected_generation_config_is_another_identity(folder: Path) -> None:
    config = folder / "generation_config.json"
    found = []
    for said in (
        {"eos_token_id": 1},
        {"eos_token_id": 1, "transformers_version": "9"},
        {"eos_token_id": [1, 2]},
    ):
        config.write_text(json.dumps(said))
        found.append(read_base(folder).digest)
    assert found[0] == found[1] != found[2]
