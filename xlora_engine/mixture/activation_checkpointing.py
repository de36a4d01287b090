"""Activation checkpointing of the mixture pass: recomputed layers get the scalings of their first run.

The backward pass recomputes them when the forward pass is over and its scalings are no longer in force.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from xlora_engine.errors import BaseUnsupported, ConfigInvalid
from xlora_engine.mixture.scaling_context import ScalingContext

#: A block's forward, as `transformers` passes it: hidden states first, then the other positional arguments.
Block = Callable[..., Any]


class ActivationCheckpointing:
    """Makes the base model's blocks keep no activations inside `active()`.

    `transformers` checkpoints a block that is in training mode. Ours never are, since a dropout of
    the frozen base would blur the experts; so blocks are marked as training around the pass, and
    unmarked while they compute.

    Gradients are exact with either kind of checkpointing. Not reentrant (the default), the graph of
    the whole pass exists, and a recomputed block takes from it the gates it first had. Reentrant,
    each block is a node of its own that runs a backward pass inside; the scalings are an input of
    that node like the hidden states, so that their gradients are summed over the blocks before the
    scaling head's backward runs, once. (Scalings that are no input of the node send one
    gradient into the head for each block, or none: huggingface/peft#2015.)
    """

    def __init__(
        self, base: PreTrainedModel, context: ScalingContext, settings: Mapping[str, Any] | None = None
    ) -> None:
        """`settings` are `torch.utils.checkpoint.checkpoint`'s, as `transformers` takes them.

        Raises:
            ConfigInvalid: a context of the caller's own.
            BaseUnsupported: the base model has no blocks to checkpoint.
        """
        self.settings = settings
        self._settings = dict(settings or {})
        reentrant = self._settings.pop("use_reentrant", False)
        if "context_fn" in self._settings:
            raise ConfigInvalid(
                "context_fn", "left out; it carries the scalings", self._settings["context_fn"]
            )
        self._context = context
        self._blocks = [block for block in base.modules() if isinstance(block, GradientCheckpointingLayer)]
        if not base.supports_gradient_checkpointing or not self._blocks:
            raise BaseUnsupported(f"{type(base).__name__} has no blocks that can be recomputed")
        # What `activation_checkpointing_enable` calls, with a function instead of settings for torch's.
        base._set_gradient_checkpointing(
            gradient_checkpointing_func=self._reentrant if reentrant else self._not_reentrant
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, blocks keep their inputs and nothing else."""
        with self._marked(training=True):
            yield

    def _not_reentrant(self, block: Block, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=self._contexts, **self._settings)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return self._marked(training=False), self._context.reinstating()

    def _reentrant(self, block: Block, hidden: Tensor, *inputs: Any) -> Any:
        def compute(scalings: Tensor | None, *inputs: Any) -> Any:
            with self._marked(training=False), self._context.using(scalings):
                return block(*inputs)

        # A node has a gradient only if an input has; the first hidden states come from a frozen embedding.
        followed = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
        return checkpoint(
            compute, self._context.scalings, followed, *inputs, use_reentrant=True, **self._settings
        )

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
