"""config.json and its kin: sizes by whatever name, and nothing that makes a library import code."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidBase
from registry.intake.base_config import read_base_config, read_chat_template, read_json

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 97,
    "tie_word_embeddings": False,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "vocab_size": 97,
}
NESTED = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 97},
    "vision_config": {"hidden_size": 64},
}


def written(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("config", [LLAMA, GPT2, NESTED], ids=["llama", "gpt2", "nested"])
def test_sizes_are_found_under_every_family_s_names(tmp_path: Path, config: dict[str, Any]) -> None:
    found = read_base_config(written(tmp_path, config))
    assert (found.hidden_size, found.layer_count, found.vocabulary_size) == (32, 2, 97)
    assert found.architecture == config["architectures"][0]
    assert found.model_type == config["model_type"]


@pytest.mark.parametrize(("stated", "tied"), [({"tie_word_embeddings": True}, True), ({}, False)])
def test_a_tied_head_is_known(tmp_path: Path, stated: dict[str, Any], tied: bool) -> None:
    assert read_base_config(written(tmp_path, LLAMA | stated)).has_tied_head is tied


def test_the_digest_is_of_what_the_model_computes(tmp_path: Path) -> None:
    digest = read_base_config(written(tmp_path, LLAMA)).digest
    saved_again = {"transformers_version": "9", "_name_or_path": "/tmp/x", **dict(reversed(LLAMA.items()))}  # noqa: S108
    assert read_base_config(written(tmp_path, saved_again)).digest == digest
    assert read_base_config(written(tmp_path, LLAMA | {"rope_theta": 1e4})).digest != digest


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "code": ({"auto_map": {"AutoModel": "evil--m.M"}}, "auto_map makes transformers import code"),
    "empty code": ({"auto_map": {}}, "auto_map"),
    "code inside": ({"text_config": {"auto_map": {"AutoModel": "evil--m.M"}}}, "auto_map"),
    "a kernel": ({"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
    "a kernel inside": (
        {"x": [{"_attn_implementation_internal": "evil/kernel"}]},
        "_attn_implementation_int",
    ),
    "trust": ({"trust_remote_code": False}, "trust_remote_code"),
    "quantised": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is set"),
    "no class": ({"architectures": []}, "architectures must name a class"),
    "a class that is a text": ({"architectures": "LlamaForCausalLM"}, "architectures must name a class"),
    "a class that is a number": ({"architectures": [1]}, "architectures must name a class"),
    "no size": ({"hidden_size": None}, "has no hidden_size"),
    "no layers": ({"num_hidden_layers": None}, "has no num_hidden_layers"),
    "a size of 0": ({"hidden_size": 0}, "hidden_size must be a whole number above 0, got 0"),
    "a size that is true": ({"vocab_size": True}, "vocab_size must be a whole number above 0, got True"),
    "a size that is a text": ({"vocab_size": "97"}, "vocab_size must be"),
    "a size of 2^31": ({"num_hidden_layers": 2**31}, "num_hidden_layers must be"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_configuration_is_refused_by_its_field(tmp_path: Path, what: str) -> None:
    fields, reason = BAD[what]
    with pytest.raises(InvalidBase, match=reason):
        read_base_config(written(tmp_path, LLAMA | fields))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "must hold a JSON object"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": "' + b"x" * 17_000_000 + b'"}', "larger than"),
    ],
    ids=["empty", "list", "BOM", "duplicate", "deep", "large"],
)
def test_what_is_not_strict_json_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(InvalidBase, match=reason):
        read_json(tmp_path / "config.json")


def test_a_template_is_the_same_in_its_own_file_and_in_the_tokenizer_s_configuration(tmp_path: Path) -> None:
    template = "{{ messages }}\n"
    inside = read_chat_template(tmp_path, tokenizer_config={"chat_template": template})
    (tmp_path / "chat_template.jinja").write_text(template)
    assert read_chat_template(tmp_path, tokenizer_config={"chat_template": "another"}) == inside


def test_a_model_without_a_template_has_none(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path, tokenizer_config={}) is None


def test_several_templates_by_name_are_digested_too(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]
    assert read_chat_template(tmp_path, tokenizer_config={"chat_template": templates}) is not None


def test_a_template_that_is_a_link_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.symlink_to("/etc/passwd")
    with pytest.raises(InvalidBase, match="symbolic link"):
        read_chat_template(tmp_path, tokenizer_config={})
    path.unlink()
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidBase, match="not UTF-8"):
        read_chat_template(tmp_path, tokenizer_config={})
