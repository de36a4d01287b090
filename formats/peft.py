"""How PEFT lays out a LoRA adapter on disk: its files and the keys of its tensors.

Source: peft 0.21.2, `LoraConfig` and `get_peft_model_state_dict`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formats.base_modules import HEADS, TOKEN_EMBEDDINGS
from formats.module_names import without_wrappers

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
#: The weights file of older releases.
PICKLED_WEIGHTS_FILE = "adapter_model.bin"
#: PEFT's prefix of a module's path: the PeftModel, then the LoraModel.
KEY_PREFIX = "base_model.model."

#: (factor, whether of an embedding) -> ending of its key.
_ENDINGS = {
    ("A", False): ".lora_A.weight",
    ("B", False): ".lora_B.weight",
    ("A", True): ".lora_embedding_A",
    ("B", True): ".lora_embedding_B",
}
#: As PEFT writes it, without its prefix, with it twice, or with the adapter's name, as a state dict has it.
_KEY = re.compile(
    r"(?:module\.)?(?:base_model\.model\.)*(?P<module>.+?)\.(?:"
    r"lora_(?P<half>[AB])(?:\.(?P<name>[^.]+))?\.weight"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.(?P<embedding_name>[^.]+))?)"
)

#: What PEFT saves of the base model itself, beside an update of it or of a changed vocabulary.
_WHOLE = frozenset((*HEADS, *TOKEN_EMBEDDINGS))
_BESIDE = ".base_layer"
_COPY = re.compile(r"(?:module\.)?(?:base_model\.model\.)*(?P<module>.+)\.weight")


@dataclass(frozen=True, kw_only=True)
class Factor:
    """Which half of which module's update a tensor is."""

    #: Path of the module in the base model.
    module: str
    #: "A" or "B".
    half: str
    is_embedding: bool
    #: The name that the adapter had where it was saved with it.
    adapter: str = ""

    @property
    def key(self) -> str:
        """The tensor's key in the weights file."""
        return f"{KEY_PREFIX}{self.module}{_ENDINGS[self.half, self.is_embedding]}"


def factor_of(key: str) -> Factor | None:
    """What the tensor of this key is; None if it is no LoRA factor of a module."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    return Factor(
        module=without_wrappers(found["module"]),
        half=found["half"] or found["embedding"],
        is_embedding=found["half"] is None,
        adapter=found["name"] or found["embedding_name"] or "",
    )


def base_copy_of(key: str) -> str | None:
    """The module of the base model whose weight the tensor of this key is a copy of, if it is one."""
    found = _COPY.fullmatch(key)
    if found is None or factor_of(key) is not None:
        return None
    module = without_wrappers(found["module"])
    is_beside = module.endswith(_BESIDE)
    module = module.removesuffix(_BESIDE)
    return module if is_beside or module.rpartition(".")[2] in _WHOLE else None


def config_text(config: Mapping[str, Any]) -> str:
    """The text of an adapter_config.json: fields by name, patterns in the order they are given in.

    Of several patterns that fit a module, the first holds.
    Source: peft 0.21.2, `get_pattern_key`.
    """
    return json.dumps(dict(sorted(config.items())), indent=2) + "\n"
