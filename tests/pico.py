"""Seeded models small enough to build in every test: a two-layer Llama, its byte tokenizer, LoRA folders.

Knows nothing of the packages under test, so that any of them can be checked against what is made here.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

#: The name that pico adapters give for their base model.
BASE_NAME = "pico"

#: Every linear layer of a Llama block, in module order.
ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

#: ChatML, as SmolLM2 and Qwen write it: a newline follows the end of each turn.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_END_OF_TEXT, _START_OF_TURN, _END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_CONTEXT_TOKENS = 512


def pico_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer, one token a byte: any text survives encoding and decoding unchanged."""
    specials = [_END_OF_TEXT, _START_OF_TURN, _END_OF_TURN]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_START_OF_TURN,
        eos_token=_END_OF_TURN,
        pad_token=_END_OF_TEXT,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
        model_max_length=_CONTEXT_TOKENS,
    )


def pico_llama(seed: int = 0, **config: Any) -> LlamaForCausalLM:
    """Llama of two layers and width 32, float32, in eval mode; `config` replaces LlamaConfig fields."""
    tokenizer = pico_tokenizer()
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": _CONTEXT_TOKENS,
        "initializer_range": 0.2,  # ten times Llama's, so that logits differ visibly from each other
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(fields | config)))
    model.train(False)
    return model


def pico_base_folder(path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """Write a pico Llama and its tokenizer as a base model folder in HF format; returns `path`."""
    torch.nn.Module.to(pico_llama(seed, **config), dtype).save_pretrained(path)
    pico_tokenizer().save_pretrained(path)
    return path


def pico_adapter(
    path: Path,
    *,
    seed: int,
    rank: int = 4,
    alpha: int = 8,
    target_modules: tuple[str, ...] = ("q_proj", "v_proj"),
    use_rslora: bool = False,
    dtype: torch.dtype = torch.float32,
    base: LlamaForCausalLM | None = None,
    scale: float = 0.2,
    **lora_kwargs: Any,
) -> Path:
    """Write a LoRA folder as PEFT does, with A and B drawn from N(0, scale²); returns `path`.

    `base` is left as it was; without one the adapter is shaped for `pico_llama()`.
    """
    base = pico_llama() if base is None else base
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(target_modules),
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
        **lora_kwargs,
    )
    requires_grad = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5 renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = get_peft_model(base, config)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * scale).to(dtype)
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    # "auto" would ask the Hub for the base model's vocabulary size.
    model.save_pretrained(path, save_embedding_layers=False)
    model.unload()
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(requires_grad[name])
    return path
