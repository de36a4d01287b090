"""The contenders: the base model alone, PEFT, two plain caches, and the engine with its defaults."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.subject import Subject
from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.mixture_loss import mixture_loss
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.model import XLoraModel
from xlora_engine.saved.zoo_format import read_zoo


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A loaded model and how it does each task."""

    #: Base model, experts, head.
    model: nn.Module
    #: Greedy, exactly this many new tokens; returns its cache, if it has one.
    generate: Callable[[Int[Tensor, "batch seq"], int], object]
    #: Logits of every token, without gradient.
    score: Callable[[Int[Tensor, "batch seq"]], object]
    #: Prepares a training step and returns it: forward and backward for the scaling head on the loss of the
    #: examples' answers, which the step returns. All examples are equally long.
    prepare_step: Callable[[Sequence[EncodedExample]], Callable[[], object]]


def base_alone(base: PreTrainedModel, _subject: Subject) -> Contender:
    """`transformers` with its cache; its step goes forward and back to its input, a lower bound for heads."""
    embedding = base.get_input_embeddings()

    def prepare_step(examples: Sequence[EncodedExample]) -> Callable[[], object]:
        batch = collate(examples, pad_id=0).to(base.device)

        def step() -> Tensor:
            embedded = embedding(batch.input_ids).detach().requires_grad_()
            loss: Tensor = base(
                inputs_embeds=embedded,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                labels=batch.labels[:, -batch.keep :],
                logits_to_keep=batch.keep,
                use_cache=False,
            ).loss
            loss.backward()
            return loss.detach()

        return step

    return Contender(
        model=base,
        generate=lambda ids, new: _generate(base, ids, new),
        score=lambda ids: base(ids, use_cache=False),
        prepare_step=prepare_step,
    )


def ours(base: PreTrainedModel, subject: Subject) -> Contender:
    """The engine with its defaults."""
    model = XLoraModel.from_pretrained(subject.composition, base, verify=False)
    return _engine(model, prefetch_scalings=True)


def two_caches(base: PreTrainedModel, subject: Subject) -> Contender:
    """The engine with a scaling pass and a mixture pass for each token, as in mistral.rs."""
    model = XLoraModel.from_pretrained(subject.composition, base, verify=False)
    return _engine(model, prefetch_scalings=False)


def peft_xlora(base: PreTrainedModel, subject: Subject) -> Contender:
    """PEFT's X-LoRA with the same experts and the same scaling head."""
    saved = read_zoo(subject.composition)
    model: Any = new_peft_xlora(base, subject.experts.values(), saved.config, saved.head)
    classifier = model.internal_xlora_classifier

    def prepare_step(examples: Sequence[EncodedExample]) -> Callable[[], object]:
        batch = collate(examples, pad_id=0).to(base.device)

        def step() -> Tensor:
            classifier.zero_grad()
            loss: Tensor = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                labels=batch.labels,
            ).loss
            loss.backward()
            return loss.detach()

        return step

    return Contender(
        model=model,
        generate=lambda ids, new: _generate(model, ids, new, use_cache=False),
        score=lambda ids: model(input_ids=ids),
        prepare_step=prepare_step,
    )


def new_peft_xlora(
    base: PreTrainedModel, experts: Iterable[Path], head: XLoraConfig, weights: Mapping[str, Tensor]
) -> nn.Module:
    """PEFT's X-LoRA over adapter folders, with a head of this shape and these weights, in evaluation mode."""
    from peft import XLoraConfig as PeftConfig
    from peft import get_peft_model

    base.config.use_cache = False
    config = PeftConfig(
        task_type="CAUSAL_LM",
        hidden_size=base.config.hidden_size,
        # Its experts must be named by their numbers (huggingface/peft#3421).
        adapters={str(number): str(path) for number, path in enumerate(experts)},
        xlora_depth=head.xlora_depth,
        xlora_size=head.xlora_size,
        xlora_dropout_p=head.xlora_dropout_p,
        layerwise_scalings=head.layerwise_scalings,
        scaling_pass_value=head.scaling_pass_value,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model: Any = get_peft_model(base, config)
    classifier = model.internal_xlora_classifier
    linears = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for number, linear in enumerate(linears):
            linear.weight.copy_(weights[f"layers.{number}.weight"])
            linear.bias.copy_(weights[f"layers.{number}.bias"])
    evaluating: nn.Module = model.eval()
    return evaluating


#: Contenders whose base model `transformers` loads; for the others, PEFT among them, `load_base` does, which
#: replaces slow parts.
PLAIN = {"base"}
#: Name -> function that makes the contender on a base model.
CONTENDERS: dict[str, Callable[[PreTrainedModel, Subject], Contender]] = {
    "base": base_alone,
    "loaded base": base_alone,
    "peft": peft_xlora,
    "two caches": two_caches,
    "ours": ours,
}


def _engine(model: XLoraModel, *, prefetch_scalings: bool) -> Contender:
    def prepare_step(examples: Sequence[EncodedExample]) -> Callable[[], object]:
        routed = _routed(model, examples)

        def step() -> Tensor:
            model.head.zero_grad()
            loss = mixture_loss(model, examples, routed, routed.train, pad_id=0)
            loss.backward()
            return loss.detach()

        return step

    return Contender(
        model=model,
        generate=lambda ids, new: _generate(model, ids, new, prefetch_scalings=prefetch_scalings),
        score=lambda ids: model(ids, use_cache=False),
        prepare_step=prepare_step,
    )


def _routed(model: XLoraModel, examples: Sequence[EncodedExample]) -> RoutedExamples:
    """Examples with their hidden states, which are computed once for all epochs and compositions."""
    batch = collate(examples, pad_id=0).to(model.device)
    hidden = model.scaling_pass(batch.input_ids, attention_mask=batch.attention_mask)
    return RoutedExamples(
        hidden=HiddenStates(
            values=hidden.flatten(0, 1).cpu(), starts=torch.arange(len(examples) + 1) * hidden.shape[1]
        ),
        experts=torch.zeros(len(examples), dtype=torch.long),
        train=tuple(range(len(examples))),
        held_out=(),
        shared=len(shared_prefix(examples)),
    )


def _generate(model: Any, ids: Int[Tensor, "batch seq"], new: int, **asked: Any) -> object:
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        **asked,
    )
