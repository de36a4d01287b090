"""Base models that no command can use, or only some: said when they are registered, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from formats.chat_templates import CHAT_TEMPLATES
from registry.errors import InvalidBase
from registry.files.staging import Staging
from registry.intake.base_files import BaseManifest, stage_base
from registry.intake.base_weights import ProvenBase
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
    assert "give one with --chat-template FILE or NAME" in warning


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


def without_template(folder: Path) -> Path:
    (folder / "chat_template.jinja").unlink()
    return folder


def staged(folder: Path, tmp_path: Path, **how: Any) -> tuple[BaseManifest, str | None]:
    """What is kept of a folder, and its chat template."""
    (tmp_path / "staged").mkdir()
    manifest = stage_base(folder, Staging(tmp_path / "staged"), **how)
    file = tmp_path / "staged" / "chat_template.jinja"
    assert file.exists() is ("chat_template.jinja" in manifest.files)
    return manifest, file.read_text() if file.exists() else None


def test_a_template_can_be_given_as_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("mine")
    manifest, text = staged(folder, tmp_path, chat_template=str(tmp_path / "mine.jinja"))
    assert text == "mine"
    assert manifest.digest != read_base(folder).digest
    assert manifest.warnings == (
        f"its chat template is {tmp_path / 'mine.jinja'}, as asked for with --chat-template",
    )


def test_a_template_can_be_one_of_its_own_by_name(folder: Path, tmp_path: Path) -> None:
    templates = [{"name": "rag", "template": "x"}, {"name": "default", "template": "y"}]
    change(folder, "tokenizer_config.json", chat_template=templates)
    assert staged(without_template(folder), tmp_path, chat_template="rag")[1] == "x"


def test_a_template_can_be_one_of_ours_by_name(folder: Path, tmp_path: Path) -> None:
    manifest, text = staged(folder, tmp_path, chat_template="plain")
    assert text == CHAT_TEMPLATES["plain"].text
    assert manifest.warnings == ("its chat template is plain, as asked for with --chat-template",)


def test_a_template_whose_tokens_are_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidBase, match=r"chatml writes <\|im_start\|>, <\|im_end\|>, which"):
        stage_base(folder, Staging(folder.parent), chat_template="chatml")


def test_a_template_that_is_neither_is_refused_with_the_names(folder: Path, tmp_path: Path) -> None:
    change(folder, "tokenizer_config.json", chat_template={"rag": "x"})
    with pytest.raises(InvalidBase, match=r"neither a file nor a name; names are plain, .*, rag"):
        staged(folder, tmp_path, chat_template="nowhere")


def test_the_template_of_a_processor_is_taken_where_there_is_no_other(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))
    assert staged(without_template(folder), tmp_path)[1] == "of the processor"


def test_a_default_is_put_in_where_the_proof_proposes_one_and_said(folder: Path, tmp_path: Path) -> None:
    def prove(*_: object) -> ProvenBase:
        return ProvenBase(modules={}, template="default")

    manifest, text = staged(without_template(folder), tmp_path, prove=prove)
    assert text == "default"
    (warning,) = manifest.warnings
    assert warning.startswith("it has no chat template, so the default, plain, was put in")
    assert manifest.chat_template_digest is not None
