"""A log of scalings for later inspection: plain numbers on the CPU, without padding, saved to one file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xlora_engine.errors import ConfigInvalid, SavedFileUnreadable
from xlora_engine.measuring.routing import Routing, RoutingRecorder
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.mixture.model_output import XLoraOutput

_FORMAT = "adapter-zoo/scalings"


class Recorder(Protocol):
    """Receives scalings as they are computed: a `ScalingsLog`, or a `RoutingRecorder`, which keeps sums."""

    def add(self, scalings: Float[Tensor, "batch seq layer expert"], mask: Int[Tensor, "batch seq"]) -> None:
        """Take the scalings of every token whose mask is not 0."""


class ScalingsLog:
    """Scalings of every token that was recorded, sequence by sequence, in float32 on the CPU.

    A sequence is one of one call: with a cache, each step of a generation is a sequence of one token.
    """

    def __init__(self, experts: Sequence[str], layers: Sequence[str] = ()) -> None:
        self.experts = tuple(experts)
        #: Paths of the layers, if they are known and scalings are layerwise.
        self.layers = tuple(layers)
        self.sequences: list[Float[Tensor, "seq layer expert"]] = []

    @classmethod
    def of(cls, model: Mixture) -> "ScalingsLog":
        """An empty log with the names of a model's experts and layers."""
        return cls(model.config.adapters, tuple(model.layers) if model.config.layerwise_scalings else ())

    def add(self, scalings: Float[Tensor, "batch seq layer expert"], mask: Int[Tensor, "batch seq"]) -> None:
        """Keep a copy of every token whose mask is not 0; a sequence without any is left out.

        Raises:
            ConfigInvalid: there are other experts or layers than the log has.
        """
        found = tuple(scalings.shape[2:])
        expected = (self.sequences[0].shape[1] if self.sequences else found[0], len(self.experts))
        if found != expected:
            raise ConfigInvalid("scalings", f"of {expected[0]} layers and {expected[1]} experts", found)
        counted = scalings.detach().float().cpu()
        for sequence, counts in zip(counted, mask.bool().cpu(), strict=True):
            if counts.any():
                self.sequences.append(sequence[counts].clone())

    def routing(self) -> Routing:
        """Load, entropy and load by layer of everything recorded."""
        recorder = RoutingRecorder(self.experts)
        for sequence in self.sequences:
            recorder.add(sequence[None], torch.ones(1, len(sequence), dtype=torch.long))
        return recorder.result()

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: all tokens one after another, the lengths of sequences, the names."""
        layers = self.sequences[0].shape[1] if self.sequences else max(len(self.layers), 1)
        empty = torch.zeros(0, layers, len(self.experts))
        tensors = {
            "scalings": torch.cat([empty, *self.sequences]),
            "lengths": torch.tensor([len(sequence) for sequence in self.sequences], dtype=torch.long),
        }
        names = {"experts": json.dumps(self.experts), "layers": json.dumps(self.layers)}
        save_file(tensors, path, metadata={"format": _FORMAT, **names})

    @classmethod
    def load(cls, path: str | Path) -> "ScalingsLog":
        """Read what `save` wrote.

        Raises:
            SavedFileUnreadable: the file is missing, damaged, or no log of scalings.
        """
        try:
            with safe_open(path, framework="pt") as file:
                names: dict[str, str] = file.metadata() or {}
                if names.get("format") != _FORMAT:
                    raise SavedFileUnreadable(f"{path} is no log of scalings")
                log = cls(json.loads(names["experts"]), json.loads(names["layers"]))
                lengths = file.get_tensor("lengths").tolist()
                log.sequences = list(file.get_tensor("scalings").split(lengths))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise SavedFileUnreadable(f"cannot read the log of scalings {path}: {error}") from error
        return log


@contextmanager
def recording(model: Mixture, recorder: Recorder) -> Iterator[None]:
    """Inside, scalings of every call of the model, including those in `generate`, go to the recorder.

    Tokens masked by a two-dimensional attention mask are left out; without such a mask, all are counted.
    Fixed scalings are recorded for every token, disabled experts not at all.
    """

    def record(_: nn.Module, args: Sequence[Any], given: dict[str, Any], out: XLoraOutput) -> None:
        if out.scalings is None:
            return
        inputs = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | given
        ids = inputs.get("input_ids")
        batch, length = (inputs["inputs_embeds"] if ids is None else ids).shape[:2]
        mask = inputs.get("attention_mask")
        if mask is None or mask.dim() != 2:
            mask = torch.ones(batch, length, dtype=torch.long, device=out.scalings.device)
        # With a cache, the mask begins with the tokens of earlier calls.
        recorder.add(out.scalings.expand(batch, length, -1, -1), mask[:, -length:])

    handle = model.register_forward_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
