"""The X-LoRA model as callers know it: the mixture, with its folders on disk and its generation."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

from jaxtyping import Int
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from xlora_engine.config import XLoraConfig
from xlora_engine.decoding.decoder import Decoder
from xlora_engine.decoding.frozen import FrozenDecoder
from xlora_engine.errors import EngineError
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.saved.formats import OWN_FORMAT, read_model, write_model
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import read_expert
from xlora_engine.sources.hub import local_folder


class XLoraModel(Mixture):
    """A mixture of LoRA experts that is read from folders, saved, exported, and generates.

    Everything else, the two passes above all, is `Mixture`'s.
    """

    @classmethod
    def from_adapters(
        cls,
        base_model: PreTrainedModel,
        adapters: Mapping[str, str | Path],
        config: XLoraConfig | None = None,
        *,
        seed: int = 0,
    ) -> Self:
        """A new head over adapters, folders or repositories of the hub, in the order of its outputs."""
        experts = [read_expert(local_folder(path), name) for name, path in adapters.items()]
        return cls(base_model, experts, config or XLoraConfig(), seed=seed)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        base_model: PreTrainedModel,
        *,
        adapters: Mapping[str, str | Path] | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        verify: bool = True,
    ) -> Self:
        """A saved model in any format of `formats.FORMATS`, from a folder or a repository of the hub.

        `adapters` says where experts are that are not with it; `verify` runs its reload check, if it has one.
        """
        saved = read_model(local_folder(path, subfolder=subfolder, revision=revision), adapters)
        model = cls(base_model, saved.experts, saved.config)
        try:
            saved.restore(model, verify=verify)
        except EngineError:
            model.unload()
            raise
        return model

    def save_pretrained(self, path: str | Path) -> None:
        """Write a self-contained folder: configuration, scaling head, experts, reload check.

        A saved model that is there is replaced, other files of the folder stay.

        Raises:
            SavedModelInvalid: the folder holds no saved model, yet files of a saved model's names.
        """
        write_model(SavedModel.of(self, with_reload_check=True), Path(path), OWN_FORMAT)

    def export(self, path: str | Path, format: str, *, base_id: str | None = None) -> None:  # noqa: A002
        """Write the folder of another implementation, `"xlora"`, `"peft"` or `"mistralrs"`.

        `base_id` is the base model's name on the hub, if it is not the one it was loaded by.
        """
        saved = SavedModel.of(self)
        write_model(replace(saved, base_id=base_id or saved.base_id), Path(path), format)

    def generate(
        self,
        inputs: Int[Tensor, "batch seq"] | None = None,
        *,
        prefetch_scalings: bool = True,
        scalings_frozen_after: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate as any model of `transformers` does, with its cache; every argument works.

        With `prefetch_scalings` the scaling pass of the next token runs together with the mixture pass of
        this one if possible, with several guesses at once for a single sequence: same tokens, less time.
        With fixed scalings there is one pass, and any cache of the base model works. After
        `scalings_frozen_after` tokens each sequence keeps its last scalings: one pass, and other tokens.
        """
        if isinstance(kwargs.get("assistant_model"), Mixture):
            kwargs["assistant_model"] = Decoder(kwargs["assistant_model"])
        # A forward hook expects the mixture's output, not its base model's.
        if self._fixed is not None and not self._forward_hooks:
            with self.context.using(self._fixed.scalings, routed=self._fixed.routed):
                return cast("GenerationMixin", self.base).generate(inputs, **kwargs)
        if self._fixed is None and scalings_frozen_after is not None:
            return FrozenDecoder(self, after=scalings_frozen_after).generate(inputs, **kwargs)
        return Decoder(self, prefetch_scalings=prefetch_scalings).generate(inputs, **kwargs)
