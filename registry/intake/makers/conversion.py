"""A converted adapter: PEFT's configuration, and the tensors of another file under PEFT's keys, bit for bit.

Values are only moved: a factor is taken as it is, or transposed, in its own dtype.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from formats.peft import Factor
from formats.strict_json import shown
from registry.errors import WeightsInvalid
from registry.files.safetensors_file import ELEMENT_BYTES, SafetensorsFile, TensorEntry
from registry.files.safetensors_writing import NewTensor, safetensors_bytes
from registry.intake.adapter_tensors import FLOATS


@dataclass(frozen=True, kw_only=True)
class MovedTensor:
    """A factor under its key in PEFT's file, and the tensor that it is, transposed perhaps."""

    key: str
    entry: TensorEntry
    is_transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class LoraModule:
    """One module of another program's adapter, of which PEFT's update is `alpha / rank * B @ A`."""

    rank: int
    alpha: float
    a: TensorEntry
    b: TensorEntry


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is written in place of another program's files."""

    #: The program's name.
    maker: str
    #: An adapter_config.json.
    config: Mapping[str, object]
    tensors: Sequence[MovedTensor] = field(repr=False)


def converted(
    maker: str,
    modules: Mapping[str, LoraModule],
    *,
    is_transposed: bool,
    base: object = None,
    dropout: object = 0.0,
) -> Conversion:
    """The conversion of linear modules by their paths in the base model."""
    rank, alpha = Counter((one.rank, one.alpha) for one in modules.values()).most_common(1)[0][0]
    tensors = [
        MovedTensor(
            key=Factor(module=path, half=half, is_embedding=False).key,
            entry=entry,
            is_transposed=is_transposed,
        )
        for path, one in modules.items()
        for half, entry in (("A", one.a), ("B", one.b))
    ]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base if isinstance(base, str) else None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout if isinstance(dropout, int | float) and 0 <= dropout < 1 else 0.0,
        "rank_pattern": {path: one.rank for path, one in modules.items() if one.rank != rank},
        "alpha_pattern": {path: one.alpha for path, one in modules.items() if one.alpha != alpha},
        "target_modules": sorted(modules),
        "bias": "none",
    }
    return Conversion(maker=maker, config=config, tensors=tensors)


def safetensors_of(conversion: Conversion, file: SafetensorsFile) -> bytes:
    """The bytes of PEFT's weights file, from the tensors of the one that was read.

    Raises:
        WeightsInvalid: a tensor is no float of 16 to 64 bits, or no matrix.
    """
    return safetensors_bytes(_moved(tensor, file) for tensor in conversion.tensors)


def _moved(tensor: MovedTensor, file: SafetensorsFile) -> NewTensor:
    entry = tensor.entry
    if entry.dtype not in FLOATS or len(entry.shape) != 2:
        raise WeightsInvalid(
            f"{file.called}: {shown(entry.name)} is {entry.dtype} {list(entry.shape)}, expected a matrix of"
            f" {', '.join(FLOATS)}"
        )
    data, shape = file.data_of(entry), entry.shape
    if tensor.is_transposed:
        data, shape = _transposed(data, entry), shape[::-1]
    return NewTensor(name=tensor.key, dtype=entry.dtype, shape=shape, data=data)


def _transposed(data: bytearray, entry: TensorEntry) -> bytearray:
    import numpy as np

    elements = np.frombuffer(data, f"<u{ELEMENT_BYTES[entry.dtype]}").reshape(entry.shape)
    return bytearray(np.ascontiguousarray(elements.T).tobytes())
