"""What the modules of a loaded base model are called and are, told from the names in its weights files.

The files may leave out the prefix of the decoder, and call some modules otherwise than the class that loads
them. Source: transformers 5, `base_model_prefix` of each class and `conversion_mapping`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from formats.module_names import is_of_no_text, place_independent

#: What transformers calls the output head of every causal language model that an adapter may name.
HEAD = "lm_head"
#: Output heads of all families, as files call them.
HEADS = (HEAD, "embed_out", "output")
#: Embeddings of tokens, and those of positions that an adapter can change, of all families.
TOKEN_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_EMBEDDINGS = (*TOKEN_EMBEDDINGS, "wpe")

_CLASS_ENDING = re.compile(r"(?:ForCausalLM|LMHeadModel|DoubleHeadsModel|PreTrainedModel|Model)\Z")
_USUAL_PREFIX = "model"
#: Family -> the prefix of its decoder, where it is not the usual one.
_PREFIXES: Mapping[str, str] = {
    **dict.fromkeys(("Bloom", "CTRL", "CodeGen", "Falcon", "GPT2", "GPTBigCode", "GPTJ"), "transformer"),
    **dict.fromkeys(("GPTNeo", "Mpt", "OpenAIGPT"), "transformer"),
    "GPTNeoX": "gpt_neox",
}
#: Family -> what its files call a module -> what the loaded model calls it.
_RENAMED: Mapping[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "GPTNeoX": ((re.compile(r"^embed_out\b"), HEAD),),
    "Mixtral": ((re.compile(r"\.block_sparse_moe\."), ".mlp."),),
}

#: Experts of a layer are one parameter once they are loaded, each a module only in the file.
_FUSED = re.compile(r"\.experts\.\d+\.")
#: Given a mask or nothing instead of tokens, so nothing can be added to what they are given.
_POSITIONS = ("embed_positions", "position_embedding", "position_embeddings", "pos_embed")


@dataclass(frozen=True, kw_only=True)
class BaseModule:
    """A linear layer from `d_in` to `d_out`, or an embedding of `d_in` tokens in `d_out` dimensions."""

    d_in: int
    d_out: int
    is_embedding: bool


def adaptable_modules(weights: Mapping[str, tuple[int, int]], architecture: str) -> Mapping[str, BaseModule]:
    """Path in the loaded model -> its module, of all that an adapter can change.

    `weights` maps the name of each weight in the files, without `.weight`, to (d_out, d_in), of an embedding
    to (vocabulary, width).
    """
    if any(map(is_of_no_text, weights)):
        return {
            _in_wrapper(path): _module(path, shape)
            for path, shape in weights.items()
            if _is_adaptable(path, weights)
        }
    family = _CLASS_ENDING.sub("", architecture)
    prefix = f"{_PREFIXES.get(family, _USUAL_PREFIX)}."
    leaves_out = not any(path.startswith(prefix) for path in weights)
    found: dict[str, BaseModule] = {}
    for path, shape in weights.items():
        if _is_adaptable(path, weights):
            is_outside = path.rpartition(".")[2] in HEADS or not leaves_out
            found[_loaded(path if is_outside else f"{prefix}{path}", family)] = _module(path, shape)
    return found


def embedding_of(weights: Mapping[str, tuple[int, int]]) -> tuple[int, int] | None:
    """(vocabulary, width) of the tokens' embedding; None where no module is known to be one."""
    return next((shape for path, shape in weights.items() if _last(path) in TOKEN_EMBEDDINGS), None)


def _is_adaptable(path: str, weights: Mapping[str, tuple[int, int]]) -> bool:
    if _FUSED.search(path) or _last(path) in _POSITIONS:
        return False
    # Beside experts, a gate is their router, which is no linear layer: it chooses.
    experts = f"{path.removesuffix('gate')}experts."
    return _last(path) != "gate" or not any(other.startswith(experts) for other in weights)


def _in_wrapper(path: str) -> str:
    """Where the class that reads pictures or sounds too has a module; source: `conversion_mapping`."""
    rest = place_independent(path)
    if rest in HEADS:
        return HEAD
    return f"model.{rest}" if is_of_no_text(path) else f"model.language_model.{rest}"


def _loaded(path: str, family: str) -> str:
    for pattern, name in _RENAMED.get(family, ()):
        path = pattern.sub(name, path)
    return path


def _module(path: str, shape: tuple[int, int]) -> BaseModule:
    first, second = shape
    if _last(path) in _EMBEDDINGS:
        return BaseModule(d_in=first, d_out=second, is_embedding=True)
    return BaseModule(d_in=second, d_out=first, is_embedding=False)


def _last(path: str) -> str:
    return path.rpartition(".")[2]
