"""How PEFT lays out a LoRA adapter on disk: its files, the keys of its tensors, how its patterns match.

Source: peft 0.21.2, `LoraConfig`, `get_peft_model_state_dict` and `get_pattern_key`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
#: The weights file of older releases.
PICKLED_WEIGHTS_FILE = "adapter_model.bin"
#: PEFT's name for all linear layers of the decoder except the output head.
ALL_LINEAR = "all-linear"

#: PEFT's prefix of a module's path: the PeftModel, then the LoraModel.
KEY_PREFIX = "base_model.model."

#: Ending of a key -> (factor, whether of an embedding).
_ENDINGS = {
    ".lora_A.weight": ("A", False),
    ".lora_B.weight": ("B", False),
    ".lora_embedding_A": ("A", True),
    ".lora_embedding_B": ("B", True),
}

_MODULE_PATH = re.compile(r"(?=.{1,256}\Z)[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Factor:
    """Which half of which module's update a tensor is."""

    #: Path of the module in the base model.
    module: str
    #: "A" or "B".
    half: str
    is_embedding: bool

    @property
    def key(self) -> str:
        """The tensor's key in the weights file."""
        wanted = (self.half, self.is_embedding)
        ending = next(ending for ending, meaning in _ENDINGS.items() if meaning == wanted)
        return f"{KEY_PREFIX}{self.module}{ending}"


def factor_of(key: str) -> Factor | None:
    """What the tensor of this key is; None if it is no LoRA factor of a module."""
    ending = next((ending for ending in _ENDINGS if key.endswith(ending)), None)
    if ending is None or not key.startswith(KEY_PREFIX):
        return None
    half, is_embedding = _ENDINGS[ending]
    module = key.removeprefix(KEY_PREFIX).removesuffix(ending)
    return Factor(module=module, half=half, is_embedding=is_embedding)


def config_text(config: Mapping[str, Any]) -> str:
    """The text of an adapter_config.json: fields by name, patterns in the order they are given in.

    Of several patterns that fit a module, the first holds.
    Source: peft 0.21.2, `get_pattern_key`.
    """
    return json.dumps(dict(sorted(config.items())), indent=2) + "\n"


def is_module_path(text: str) -> bool:
    """Whether a text is a dotted path of plain module names."""
    return _MODULE_PATH.fullmatch(text) is not None


def is_plain_pattern(text: str) -> bool:
    """Whether a pattern is a module's name, anchored by `^` perhaps, and no regular expression."""
    return is_module_path(text.removeprefix("^"))


def by_pattern(patterns: Mapping[str, Value], path: str, *, default: Value) -> Value:
    """The value of the first plain pattern that is the path, or ends it after a dot unless it has a `^`."""
    for name, value in patterns.items():
        plain = name.removeprefix("^")
        if path == plain or (plain == name and path.endswith(f".{plain}")):
            return value
    return default


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Which modules a configuration makes PEFT adapt; it passes over the tensors of any other.

    Source: peft 0.21.2, `check_target_module_exists`.
    """

    #: Names or paths of modules, or `all-linear` alone.
    modules: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    #: Indices of layers, all if there are none.
    layers: tuple[int, ...] = ()
    #: Names of the lists of layers; the first number in a path is that of a layer if there are none.
    layer_lists: tuple[str, ...] = ()

    def include(self, path: str) -> bool:
        """Whether the module at this path is adapted."""
        endings = _endings(path)
        if not endings.isdisjoint(self.excluded):
            return False
        if self.modules == (ALL_LINEAR,) or path in self.modules:
            return True
        return not endings.isdisjoint(self.modules) and (not self.layers or self._layer(path) in self.layers)

    def _layer(self, path: str) -> int | None:
        names = path.split(".")
        for layer_list in self.layer_lists or (None,):
            # Something has to come before a list of any name, and after every index.
            for index in range(1 if layer_list else 2, len(names) - 1):
                if names[index].isdecimal() and layer_list in (None, names[index - 1]):
                    return int(names[index])
        return None


def _endings(path: str) -> set[str]:
    """A path, and what remains of it after each dot."""
    names = path.split(".")
    return {".".join(names[start:]) for start in range(len(names))}
