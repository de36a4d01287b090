"""Activation checkpointing of the mixture pass: recomputed layers see the scalings they first saw.

By then the forward pass is over and its scalings are no longer in force, hence this module.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from xlora_engine.errors import BaseUnsupported, ConfigInvalid
from xlora_engine.scaling_context import ScalingContext


class Recomputation:
    """The base model's blocks, told to keep no activations; in force inside `recomputing()` alone.

    `transformers` checkpoints a block that is in training mode. Ours never are, since a dropout of
    the frozen base would blur the experts; so blocks are marked as training around the pass, and
    unmarked while they compute.
    """

    def __init__(
        self, base: PreTrainedModel, context: ScalingContext, settings: Mapping[str, Any] | None = None
    ) -> None:
        """`settings` are `torch.utils.checkpoint.checkpoint`'s, as `transformers` takes them.

        Raises:
            ConfigInvalid: reentrant checkpointing, or a context of the caller's own.
            BaseUnsupported: the base model has no blocks to checkpoint.
        """
        settings = dict(settings or {})
        if settings.pop("use_reentrant", False):
            # It runs backward through each block by itself, hence through the scaling head once a block.
            raise ConfigInvalid("use_reentrant", "false, with which gradients are exact,", True)
        if "context_fn" in settings:
            raise ConfigInvalid("context_fn", "left out; it carries the scalings", settings["context_fn"])
        self._context = context
        self._blocks = [block for block in base.modules() if isinstance(block, GradientCheckpointingLayer)]
        if not base.supports_gradient_checkpointing or not self._blocks:
            raise BaseUnsupported(f"{type(base).__name__} has no blocks that can be recomputed")
        base.activation_checkpointing_enable(
            {**settings, "use_reentrant": False, "context_fn": self._contexts}
        )
        # Embeddings need no gradient of their own: a block's enters through the scalings.
        base.disable_input_require_grads()

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Inside, blocks keep their inputs and nothing else."""
        with self._marked(training=True):
            yield

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return self._marked(training=False), self._context.reinstating()

    @contextmanager
    def _marked(self, *, training: bool) -> Iterator[None]:
        before = [block.training for block in self._blocks]
        for block in self._blocks:
            block.training = training
        try:
            yield
        finally:
            for block, state in zip(self._blocks, before, strict=True):
                block.training = state
