"""Base models on disk: what loads is frozen and whole; a GGUF file becomes the same model as a folder."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tests.pico import CHATML, pico_base_folder, pico_llama, pico_tokenizer
from xlora_engine.errors import BaseUnreadable, BaseUnsupported
from xlora_engine.sources.base_model import convert_gguf, load_base, load_tokenizer

CPU = torch.device("cpu")
TOKENS = torch.tensor([[1, 87, 85, 71, 84, 2, 201, 74, 130, 105]])


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_base_folder(tmp_path_factory.mktemp("bases") / "pico")


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "secret-folder" / "pico.gguf", gguf_llama())


def gguf_llama() -> LlamaForCausalLM:
    return pico_llama(vocab_size=len(pico_tokenizer()) + 1)


def gguf_tensors(model: LlamaForCausalLM) -> Iterator[tuple[str, np.ndarray]]:
    """A Llama's weights under llama.cpp's names, rows of Q and K in the order llama.cpp rotates them."""
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    yield "output.weight", weights["lm_head.weight"]
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for layer in range(model.config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if ours in heads:
                halves = weight.reshape(heads[ours], 2, -1, weight.shape[1])
                weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
            yield f"blk.{layer}.{ours}.weight", weight


def write_gguf(path: Path, model: LlamaForCausalLM) -> Path:
    path.parent.mkdir()
    writer = GGUFWriter(path, "llama")
    config = model.config
    writer.add_name("Pico of /home/someone")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokenizer = pico_tokenizer()
    # transformers insists on a merge; these two bytes never meet in a text.
    tokens = [*tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))), "þÿ"]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = [TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))]
    writer.add_token_types(kinds)
    writer.add_token_merges(["þ ÿ"])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_chat_template(CHATML)
    for name, weight in gguf_tensors(model):
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_loaded_base_is_frozen_evaluating_and_bit_identical(base_folder: Path) -> None:
    model = load_base(base_folder, dtype=torch.float32, device=CPU)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    expected = pico_llama().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_base_loads_in_the_dtype_asked_for(base_folder: Path) -> None:
    assert load_base(base_folder, dtype=torch.bfloat16, device=CPU).dtype == torch.bfloat16


def test_the_head_gets_the_last_tokens_of_a_batch_as_one_block(base_folder: Path) -> None:
    model = load_base(base_folder, dtype=torch.float32, device=CPU)
    blocks: list[bool] = []
    model.lm_head.register_forward_pre_hook(lambda _, given: blocks.append(given[0].is_contiguous()))
    token_ids = TOKENS.expand(3, -1)
    last = model(input_ids=token_ids, logits_to_keep=4).logits
    assert blocks == [True]
    torch.testing.assert_close(last, pico_llama()(input_ids=token_ids).logits[:, -4:])


def test_a_pickled_base_is_refused(tmp_path: Path) -> None:
    folder = pico_base_folder(tmp_path / "pickled")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(BaseUnreadable, match=r"cannot load .*pickled"):
        load_base(folder, dtype=torch.float32, device=CPU)


def test_a_base_that_lacks_a_weight_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = pico_base_folder(tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseUnreadable, match=r"lacks 1 .*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_base(folder, dtype=torch.float32, device=CPU)


def _with_more_weights(folder: Path, *more: str) -> Path:
    weights = load_file(pico_base_folder(folder) / "model.safetensors")
    save_file(
        weights | {name: torch.ones(4) for name in more},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.9.mlp.up_proj.weight"]
)
def test_a_base_with_a_weight_that_its_configuration_leaves_out_is_refused(name: str, tmp_path: Path) -> None:
    folder = _with_more_weights(tmp_path / "more", name)
    with pytest.raises(BaseUnreadable, match=rf"holds '{name}', which no layer takes .*\(1 such weights\)"):
        load_base(folder, dtype=torch.float32, device=CPU)


def test_a_base_with_weights_beside_its_decoder_is_loaded(tmp_path: Path) -> None:
    folder = _with_more_weights(
        tmp_path / "more", "v_head.summary.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"
    )
    load_base(folder, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("damage", ["cut", "absent", "empty folder", "other shape"])
def test_a_damaged_base_is_refused(tmp_path: Path, damage: str) -> None:
    folder = pico_base_folder(tmp_path / "base")
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "absent":
        weights.unlink()
    elif damage == "empty folder":
        folder = tmp_path / "nothing"
        folder.mkdir()
    else:
        tensors = load_file(weights)
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]
        save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(BaseUnreadable):
        load_base(folder, dtype=torch.float32, device=CPU)


def test_code_that_comes_with_a_base_is_never_run(tmp_path: Path) -> None:
    folder = pico_base_folder(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BaseUnsupported, match="code that comes with the model"):
        load_base(folder, dtype=torch.float32, device=CPU)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_comes_back_with_its_template(base_folder: Path) -> None:
    tokenizer = load_tokenizer(base_folder)
    assert tokenizer.chat_template == CHATML
    assert tokenizer("grüße")["input_ids"] == pico_tokenizer()("grüße")["input_ids"]


def test_a_tokenizer_without_a_pad_token_pads_with_the_end_token(tmp_path: Path) -> None:
    tokenizer = pico_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token_id == tokenizer.eos_token_id


def test_a_pad_token_without_an_embedding_is_not_used(tmp_path: Path) -> None:
    folder = pico_base_folder(tmp_path / "base")
    tokenizer = pico_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 259
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(folder).pad_token_id == tokenizer.eos_token_id


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseUnreadable, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    pico_tokenizer().save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text[: len(text) // 2])
    with pytest.raises(BaseUnreadable, match="cannot load a tokenizer"):
        load_tokenizer(tmp_path)


def test_a_converted_gguf_is_the_same_model_in_bfloat16(gguf_file: Path, tmp_path: Path) -> None:
    convert_gguf(gguf_file, tmp_path / "deeper" / "pico")
    converted = load_base(tmp_path / "deeper" / "pico", dtype=torch.float32, device=CPU)
    expected = gguf_llama()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.copy_(parameter.bfloat16())
        torch.testing.assert_close(converted(TOKENS).logits, expected(TOKENS).logits, rtol=0, atol=1e-5)
    weights = load_file(tmp_path / "deeper" / "pico" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_a_converted_gguf_keeps_tokenizer_template_and_stops(gguf_file: Path, tmp_path: Path) -> None:
    convert_gguf(gguf_file, tmp_path / "pico")
    tokenizer = load_tokenizer(tmp_path / "pico")
    text = "<|im_start|>user\nhéllo  wörld<|im_end|>\n"
    assert tokenizer(text)["input_ids"] == pico_tokenizer()(text)["input_ids"]
    assert tokenizer.chat_template == CHATML
    assert tokenizer.eos_token == "<|im_end|>"
    generation = json.loads((tmp_path / "pico" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == pico_tokenizer().eos_token_id


def test_a_converted_gguf_says_nothing_of_where_it_came_from(gguf_file: Path, tmp_path: Path) -> None:
    convert_gguf(gguf_file, tmp_path / "pico")
    names = {path.name for path in (tmp_path / "pico").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    for path in (tmp_path / "pico").glob("*.json"):
        text = path.read_text()
        assert "secret-folder" not in text, path.name
        assert "/home/someone" not in text, path.name
        assert str(tmp_path) not in text, path.name
    config = json.loads((tmp_path / "pico" / "config.json").read_text())
    assert "quantization_config" not in config


def test_a_converted_folder_is_readable_like_any_other(gguf_file: Path, tmp_path: Path) -> None:
    convert_gguf(gguf_file, tmp_path / "pico")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "pico").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_broken_gguf_is_refused_and_leaves_nothing(gguf_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_file.read_bytes()[:5000])
    with pytest.raises(BaseUnreadable, match=r"broken\.gguf"):
        convert_gguf(broken, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(BaseUnreadable, match="begin with the bytes GGUF"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    with pytest.raises(BaseUnreadable, match=r"absent\.gguf"):
        convert_gguf(tmp_path / "absent.gguf", tmp_path / "out")


def test_an_existing_folder_is_not_converted_into(gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(BaseUnreadable, match="exists already"):
        convert_gguf(gguf_file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
