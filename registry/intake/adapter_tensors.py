"""From the tensors of an adapter to the modules it touches: every A with its B, of the rank that is stated.

Knows nothing of folders or base models.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from formats.module_names import is_module_path
from formats.patterns import PatternRefused, by_patterns
from formats.peft import CONFIG_FILE, KEY_PREFIX, Factor, base_copy_of, factor_of
from formats.strict_json import shown
from formats.target_modules import passed_over
from registry.errors import AdapterConfigInvalid, ChangesNothing, WeightsInvalid
from registry.files.digests import joint_digest
from registry.files.safetensors_file import SafetensorsFile, TensorEntry, values_of
from registry.intake.adapter_config import AdapterConfig
from registry.intake.fitting.other_kinds import other_kind

#: dtype in the file -> its name elsewhere; a factor in another dtype is quantised, or no weight at all.
FLOATS: Mapping[str, str] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}

#: Part of a key -> what such a tensor is, and what to do.
_FOREIGN = (
    (".lora_magnitude_vector", "DoRA's magnitude; train without use_dora"),
    (".modules_to_save.", "a whole layer of the base model; train without modules_to_save"),
    (".bias", "a bias; train with bias='none' and without lora_bias"),
    ("token_adapter", "added vocabulary; train without trainable_token_indices"),
    (".hada_", "a factor of LoHa; train a LoRA adapter"),
    (".lokr_", "a factor of LoKr; train a LoRA adapter"),
)


@dataclass(frozen=True, kw_only=True)
class ModuleShape:
    """An update `B A` of one module, from `d_in` to `d_out` through `rank`.

    Of an embedding, `d_in` is the size of the vocabulary.
    """

    rank: int
    d_in: int
    d_out: int
    is_embedding: bool = False
    #: Of its factors A and B in the file.
    keys: tuple[str, ...] = field(default=(), compare=False)

    @property
    def parameter_count(self) -> int:
        """Numbers in A and B."""
        return self.rank * (self.d_in + self.d_out)


def pair_modules(entries: Iterable[TensorEntry], config: AdapterConfig) -> dict[str, ModuleShape]:
    """Module path -> its update, in the order of the paths.

    Raises:
        WeightsInvalid: a tensor is no LoRA factor of a linear layer or embedding, lacks its other half, has
            another rank than the configuration states, or is of a module that this leaves out; the message
            names it.
    """
    factors: dict[str, dict[str, TensorEntry]] = {}
    embeddings: dict[str, bool] = {}
    adapters: dict[str, str] = {}
    for entry in entries:
        if base_copy_of(entry.name) is not None:
            continue
        factor = _factor(entry)
        adapters[factor.adapter] = entry.name
        halves = factors.setdefault(factor.module, {})
        is_embedding = embeddings.setdefault(factor.module, factor.is_embedding)
        if factor.half in halves or is_embedding != factor.is_embedding:
            raise WeightsInvalid(
                f"{factor.module} has two factors {factor.half}, one of them {shown(entry.name)}"
            )
        halves[factor.half] = entry
    if not factors:
        raise WeightsInvalid("the file holds no tensors of an update, so there is no adapter in it")
    if len(adapters) > 1:
        names = " and ".join(sorted(adapters))
        raise WeightsInvalid(f"the file holds several adapters ({names}); save the one that is meant")
    kind = other_kind(factors)
    if kind is not None:
        raise WeightsInvalid(kind)
    ranks = _ranks(sorted(factors), config)
    return {
        path: _module(path, factors[path], rank=rank, is_embedding=embeddings[path])
        for path, rank in ranks.items()
    }


def _ranks(paths: Sequence[str], config: AdapterConfig) -> Mapping[str, int]:
    """Path -> the rank that the configuration states; refuses paths that it leaves out."""
    try:
        refusal = passed_over(config.targets, paths)
        ranks = by_patterns(config.rank_pattern, paths, default=config.rank)
    except PatternRefused as refused:
        raise AdapterConfigInvalid(f"{CONFIG_FILE}: {refused}") from refused
    if refusal is not None:
        raise WeightsInvalid(refusal)
    return ranks


@dataclass(frozen=True, kw_only=True)
class AdapterValues:
    """What one pass over an adapter's weights finds."""

    #: Of the weights, whatever the metadata and order of the file.
    digest: str
    #: Modules whose update is zero.
    zero_modules: int


def read_values(file: SafetensorsFile) -> AdapterValues:
    """Read every value once: check and digest it.

    Raises:
        WeightsInvalid: a tensor holds NaN or infinity.
        ChangesNothing: every module's update is zero.
    """
    import numpy as np

    contents: dict[TensorEntry, str] = {}
    zero: set[str] = set()
    modules: set[str] = set()
    for entry in file.entries:
        if base_copy_of(entry.name) is not None:
            continue
        data = file.data_of(entry)
        contents[entry] = hashlib.sha256(data).hexdigest()
        values = values_of(data, entry, called=file.called)
        if not np.isfinite(values).all():
            raise WeightsInvalid(
                f"{file.called}: {shown(entry.name)} holds NaN or infinity; training had diverged"
            )
        module = _factor(entry).module
        modules.add(module)
        if not values.any():
            zero.add(module)
    if zero == modules:
        raise ChangesNothing(
            f"{file.called}: B is zero in all {len(modules)} modules, so the adapter changes nothing; it was"
            " saved before training, or training did not reach it. Train it, then save it again"
        )
    return AdapterValues(digest=joint_digest(contents), zero_modules=len(zero))


def dtype_name(entries: Iterable[TensorEntry]) -> str:
    """The dtype of all tensors, or several joined by a comma."""
    return ",".join(sorted({FLOATS.get(entry.dtype, entry.dtype.lower()) for entry in entries}))


def _factor(entry: TensorEntry) -> Factor:
    factor = factor_of(entry.name)
    if factor is None:
        raise WeightsInvalid(f"tensor {shown(entry.name)} is {_what_instead(entry.name)}")
    if not is_module_path(factor.module):
        raise WeightsInvalid(f"tensor {shown(entry.name)} names no module")
    return factor


def _what_instead(name: str) -> str:
    for part, what in _FOREIGN:
        if part in name:
            return what
    kind = other_kind([name])
    if kind is not None:
        return f"no LoRA factor, and {kind}"
    return f"no LoRA factor: PEFT writes {KEY_PREFIX}<module>.lora_A.weight and lora_B.weight"


def _module(path: str, factors: Mapping[str, TensorEntry], *, rank: int, is_embedding: bool) -> ModuleShape:
    if len(factors) != 2:
        missing = "B" if "A" in factors else "A"
        raise WeightsInvalid(f"{path} lacks its factor {missing}; the file is incomplete, save it again")
    a, b = factors["A"], factors["B"]
    for entry in (a, b):
        if entry.dtype not in FLOATS:
            raise WeightsInvalid(f"{shown(entry.name)} is {entry.dtype}, expected one of {', '.join(FLOATS)}")
        if len(entry.shape) != 2 or 0 in entry.shape:
            raise WeightsInvalid(
                f"{shown(entry.name)} has shape {list(entry.shape)}, expected [rank, d_in] or [d_out, rank]:"
                " only linear layers and embeddings can be mixed, no convolutions"
            )
    if a.shape[0] != rank or b.shape[1] != rank:
        raise WeightsInvalid(
            f"{path} has A {list(a.shape)} and B {list(b.shape)}, expected rank {rank}: [{rank}, d_in] and"
            f" [d_out, {rank}], as r and rank_pattern of adapter_config.json say"
        )
    return ModuleShape(
        rank=rank, d_in=a.shape[1], d_out=b.shape[0], is_embedding=is_embedding, keys=(a.name, b.name)
    )
