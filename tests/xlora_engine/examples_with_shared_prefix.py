"""Examples of several lengths with a shared prefix, and a training step on them by the mixture loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xlora_engine.data.chat import EncodedExample
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.mixture_loss import mixture_loss
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.model import XLoraModel

SHARED = 24
#: Tokens of each example's own: of its prompt, of its answer.
OWN = ((3, 2), (1, 4), (6, 1), (3, 3))
TOKENS_WHOLE = len(OWN) * (SHARED + 7)
TOKENS_ONCE = SHARED + len(OWN) * 7


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One forward and backward."""

    loss: Tensor
    #: Of all that is trained, by name.
    gradients: dict[str, Tensor]
    #: How many the base model ran, padding included.
    tokens: int


def examples_with_shared_prefix(model: XLoraModel) -> tuple[list[EncodedExample], RoutedExamples]:
    """Four examples, with hidden states that were not rounded."""
    generator = torch.Generator().manual_seed(7)

    def drawn(count: int) -> list[int]:
        ids: list[int] = torch.randint(3, 64, (count,), generator=generator).tolist()
        return ids

    opening = drawn(SHARED)
    examples = [
        EncodedExample(token_ids=(*opening, *drawn(prompt + answer)), prompt_length=SHARED + prompt)
        for prompt, answer in OWN
    ]
    states = [model.scaling_pass(torch.tensor([example.token_ids]))[0] for example in examples]
    return examples, RoutedExamples(
        hidden=HiddenStates(values=torch.cat(states), starts=torch.tensor([0, *map(len, states)]).cumsum(0)),
        experts=torch.zeros(len(examples), dtype=torch.long),
        train=tuple(range(len(examples))),
        held_out=(),
        shared=SHARED,
    )


def step(model: XLoraModel, examples: list[EncodedExample], routed: RoutedExamples) -> Step:
    """Loss and gradients of all the examples."""
    run: list[int] = []
    model.zero_grad()
    embeddings = model.base.get_input_embeddings()
    counting = embeddings.register_forward_hook(lambda _module, ids, _made: run.append(ids[0].numel()))
    loss = mixture_loss(model, examples, routed, routed.train, pad_id=0)
    loss.backward()
    counting.remove()
    return Step(
        loss=loss.detach(),
        gradients={n: value.grad for n, value in model.named_parameters() if value.grad is not None},
        tokens=sum(run),
    )


def assert_same_step(found: Step, expected: Step) -> None:
    """Equal but for the order of float32 additions."""
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        atol = 2e-6 * float(gradient.abs().max())
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-4, atol=atol)
