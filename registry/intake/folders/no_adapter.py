"""What a folder without an adapter holds instead, told by names alone, with the way out."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

_NAMED = 8

_DIFFUSERS = "it is of diffusers, for a model of images, and no expert of a language model"
_LITGPT = (
    "it is of LitGPT, whose factors are of query, key and value in one; merge it with litgpt merge_lora,"
    " convert that with litgpt convert_from_litgpt, and register it as a base model"
)
_IN_PARTS = (
    "it is a checkpoint in parts, of NeMo, Megatron or FSDP; let the program that wrote it export a PEFT"
    " folder (for FSDP: accelerate merge-weights)"
)
_ARCHIVE = "it holds an archive; unpack it, then give the folder that comes out"
_MODEL = (
    "it is a whole model (merged with its adapter, perhaps): zoo register base takes it, or give the folder"
    " that PEFT's save_pretrained wrote"
)
_GGUF = "a .gguf is for llama.cpp, and cannot be turned back exactly; give the PEFT folder it was made of"

#: Name patterns in lower case, of which one is enough -> what the folder is; the first row counts.
_INSTEAD: tuple[tuple[tuple[str, ...], str], ...] = (
    (("model_index.json", "pytorch_lora_weights.*"), _DIFFUSERS),
    (("lit_model.pth*",), _LITGPT),
    (("*.nemo", "model_weights", "*.distcp", "pytorch_model_fsdp_*", "iter_[0-9]*", "mp_rank_*"), _IN_PARTS),
    (("*.tar.gz", "*.tgz", "*.zip", "*.tar", "*.7z"), _ARCHIVE),
    (("model.safetensors*", "model-0*", "pytorch_model*.bin", "consolidated*"), _MODEL),
    (("*.gguf",), _GGUF),
)


def what_instead(names: Sequence[str]) -> str:
    """The end of a refusal of a folder that holds these files and folders."""
    lowered = [name.lower() for name in names]
    for patterns, words in _INSTEAD:
        if any(fnmatchcase(name, pattern) for name in lowered for pattern in patterns):
            return words
    shown = ", ".join(names[:_NAMED]) or "nothing"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        "it has no adapter_config.json; give the folder that PEFT's save_pretrained wrote (here is"
        f" {shown}{more})"
    )
