"""A tokenizer or chat template beside an adapter: accepted if it is the base's, else warned of or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.entities import BaseModel
from registry.errors import Incompatible
from registry.service import Registry
from tests.registry.folders import VOCABULARY, write_adapter, write_base
from tests.registry.listed import listed

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

VOCAB = {"a": 0, "b": 1, "ab": 2}
CONFIG = {"eos_token": "<end>", "bos_token": None, "pad_token": "<end>"}
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def tokenizer(*, vocab: dict[str, int] | None = None, added: dict[str, int] | None = None) -> dict[str, Any]:
    tokens = {"<end>": 3} | (added or {})
    return {
        "version": "1.0",
        "model": {"vocab": VOCAB if vocab is None else vocab, "merges": ["a b"]},
        "added_tokens": [{"id": index, "content": token} for token, index in tokens.items()],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model with a tokenizer."""
    folder = write_base(tmp_path / "base")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def base(registry: Registry, folder: Path) -> BaseModel:
    return registry.bases.register(folder, name="base", source="x")


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    """An adapter with its base model's tokenizer, as transformers' Trainer saves it."""
    adapter = write_adapter(tmp_path / "adapter")
    for name in FILES:
        shutil.copy(folder / name, adapter / name)
    return adapter


def rewrite(name: str, value: Any) -> Callable[[Path], object]:
    text = value if isinstance(value, str) else json.dumps(value, indent=1)
    return lambda folder: (folder / name).write_text(text)


def without_files(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink()


def template_in_config(folder: Path) -> None:
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    rewrite("tokenizer_config.json", CONFIG | {"chat_template": text})(folder)


def named_template_in_config(folder: Path) -> None:
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": text}, {"name": "tools", "template": "x"}]
    rewrite("tokenizer_config.json", CONFIG | {"chat_template": named})(folder)


MERGED = tokenizer() | {"model": {"vocab": VOCAB, "merges": [["a", "b"]]}, "padding": {"length": 4}}
SAME: dict[str, Callable[[Path], object]] = {
    "the same files": lambda _: None,
    "no files": without_files,
    "written by another release": rewrite("tokenizer.json", MERGED),
    "another padding token": rewrite("tokenizer_config.json", CONFIG | {"pad_token": "a"}),
    "the template in the configuration": template_in_config,
    "the template beside others": named_template_in_config,
    "a newline after the template": rewrite("chat_template.jinja", "{{ messages }}\n"),
    "its added tokens alone": rewrite("added_tokens.json", {"<end>": 3}),
    "tokens by their id": rewrite(
        "tokenizer_config.json", CONFIG | {"added_tokens_decoder": {"3": {"content": "<end>"}}}
    ),
    "its special tokens": rewrite("special_tokens_map.json", {"eos_token": {"content": "<end>"}}),
}


@pytest.mark.parametrize("what", SAME)
def test_the_base_s_own_tokenizer_gives_no_warning(
    what: str, registry: Registry, base: BaseModel, adapter: Path
) -> None:
    SAME[what](adapter)
    assert registry.adapters.register(adapter, name="a", licence="mit").warnings == ()


TEMPLATE = "its chat template is not base's, which is the one used here"
TOKENIZER = "its tokenizer is not base's"
OTHER: dict[str, tuple[Callable[[Path], object], str]] = {
    "a template": (rewrite("chat_template.jinja", "{{ other }}"), TEMPLATE),
    "a word more": (
        rewrite("tokenizer.json", tokenizer(vocab=VOCAB | {"c": 4})),
        f"{TOKENIZER} (differs in 1 token ('c'))",
    ),
    "a word less": (
        rewrite("tokenizer.json", tokenizer(vocab={"a": 0, "b": 1})),
        "differs in 1 token ('ab')",
    ),
    "words turned": (rewrite("tokenizer.json", tokenizer(vocab={"a": 1, "b": 0, "ab": 2})), "2 tokens"),
    "an added token that has an embedding": (
        rewrite("tokenizer.json", tokenizer(added={"<tool>": VOCABULARY - 1})),
        "differs in 1 token ('<tool>')",
    ),
    "merges": (
        rewrite("tokenizer.json", tokenizer() | {"model": {"vocab": VOCAB, "merges": []}}),
        "differs in its merges",
    ),
    "an end": (
        rewrite("tokenizer_config.json", CONFIG | {"eos_token": "a"}),
        "eos_token is 'a', not '<end>'",
    ),
    "a beginning": (
        rewrite("tokenizer_config.json", CONFIG | {"bos_token": {"content": "a"}}),
        "bos_token is 'a', not None",
    ),
    "no JSON": (rewrite("tokenizer.json", "x"), "not compared with base's: tokenizer.json is not JSON"),
    "no text": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff"),
        "not compared with base's: chat_template.jinja is not UTF-8",
    ),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_tokenizer_or_template_is_on_the_record_with_the_way_out(
    what: str, registry: Registry, base: BaseModel, adapter: Path
) -> None:
    change, said = OTHER[what]
    change(adapter)
    (warning,) = registry.adapters.register(adapter, name="a", licence="mit").warnings
    assert said in warning
    assert "not compared" in warning or "copy of the base model's folder" in warning
    assert registry.adapters.get("a").warnings == (warning,)


def test_the_way_out_leads_to_a_record_without_a_warning(
    registry: Registry, base: BaseModel, folder: Path, adapter: Path
) -> None:
    (adapter / "chat_template.jinja").write_text("{{ other }}")
    shutil.copy(adapter / "chat_template.jinja", folder)
    registry.bases.register(folder, name="other", source="x")
    assert registry.adapters.register(adapter, name="a", base="other", licence="mit").warnings == ()


@pytest.mark.parametrize(
    "change",
    [
        rewrite("tokenizer.json", tokenizer(added={"<tool>": VOCABULARY})),
        rewrite("added_tokens.json", {"<tool>": VOCABULARY}),
        rewrite(
            "tokenizer_config.json",
            CONFIG | {"added_tokens_decoder": {str(VOCABULARY): {"content": "<tool>"}}},
        ),
    ],
)
def test_tokens_without_an_embedding_are_refused_by_name(
    change: Callable[[Path], object], registry: Registry, base: BaseModel, adapter: Path
) -> None:
    change(adapter)
    with pytest.raises(Incompatible, match="base cannot carry") as refusal:
        registry.adapters.register(adapter, name="a")
    (reason,) = refusal.value.reasons
    assert reason.startswith("ZOO-E276 its tokenizer adds 1 token ('<tool>') that base has no embedding for")
    assert listed(registry.adapters) == []


def test_a_token_that_the_base_s_tokenizer_has_without_an_embedding_is_no_reason(
    registry: Registry, folder: Path, adapter: Path
) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(added={"<tool>": VOCABULARY})))
    registry.bases.register(folder, name="base", source="x")
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer(added={"<tool>": VOCABULARY}), indent=1))
    assert registry.adapters.register(adapter, name="a", licence="mit").warnings == ()


@pytest.mark.parametrize("is_same", [True, False])
def test_a_vocabulary_that_is_no_json_is_compared_by_its_bytes(
    is_same: bool, registry: Registry, folder: Path, adapter: Path
) -> None:
    for given in (folder, adapter):
        (given / "tokenizer.json").unlink()
        (given / "tokenizer.model").write_bytes(b"pieces")
    if not is_same:
        (adapter / "tokenizer.model").write_bytes(b"others")
    (adapter / "README.md").write_text("x")
    registry.bases.register(folder, name="base", source="x")
    warnings = registry.adapters.register(adapter, name="a", licence="mit").warnings
    said = f"{TOKENIZER} (differs in tokenizer.model)"
    assert [said in warning for warning in warnings] == ([] if is_same else [True])


def test_a_tokenizer_larger_than_a_configuration_can_be_a_base_s(registry: Registry, folder: Path) -> None:
    large = tokenizer() | {"padding": "x" * 17 * 1024 * 1024}
    (folder / "tokenizer.json").write_text(json.dumps(large))
    assert registry.bases.register(folder, name="base", source="x").warnings == ()
