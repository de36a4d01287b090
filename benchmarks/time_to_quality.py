"""The time from a random scaling head to a useful mixture: the engine's training against PEFT's.

python -m benchmarks.time_to_quality

The goal is nine tenths of the way from the uniform mixture's loss to that of each domain's own expert, on
the answers of held-out examples, in every domain. Loading and evaluation are not counted.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.__main__ import HOME
from benchmarks.contenders import new_peft_xlora
from benchmarks.subject import (
    DTYPE,
    HEAD,
    ROUTED_EXAMPLES,
    ROUTING,
    Subject,
    domain_examples,
    find_or_make,
    routed_examples,
)
from xlora_engine.data.chat import IGNORED, EncodedExample, collate, length_grouped, pad_token, training_order
from xlora_engine.head_training.warm_start import warm_start
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import load_base, load_tokenizer

#: Share of the way from the uniform mixture's loss to the own expert's.
GOAL = 0.9

#: Budgets of the routing warm start, each tried from a random head; the first that suffices counts.
STEPS = (25, 50, 100, 200, 400, 800)

#: PEFT's held-out loss is evaluated after these shares of its time.
EVALUATED_AFTER = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)

#: The default of transformers' Trainer.
GRADIENT_NORM = 1.0

Examples = Mapping[str, Sequence[EncodedExample]]
Losses = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Held-out losses (nats per token) by domain, between which a mixture is expected."""

    uniform: Losses
    own: Losses

    def share(self, losses: Losses) -> float:
        """The share of the way from uniform to own that these losses have reached, in the worst domain."""
        return min(
            (self.uniform[domain] - loss) / (self.uniform[domain] - self.own[domain])
            for domain, loss in losses.items()
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The held-out losses, and the seconds and steps of training until then."""

    seconds: float
    steps: int
    losses: Losses


def held_out_losses(call: Callable[..., Tensor], examples: Examples, *, pad_id: int) -> dict[str, float]:
    """Mean loss (nats) over the answers' tokens of each domain; `call` returns the logits of a batch."""
    return {domain: _mean_loss(call, of_domain, pad_id=pad_id) for domain, of_domain in examples.items()}


def bounds(model: XLoraModel, held_out: Examples, *, pad_id: int) -> Bounds:
    """The losses of the uniform mixture and of each domain's own expert, which has the domain's name."""
    names = model.config.adapters

    def losses(values: Sequence[float], domains: Sequence[str]) -> dict[str, float]:
        with model.fixed_scalings(model.constant_scalings(values)):
            return held_out_losses(_logits(model), {d: held_out[d] for d in domains}, pad_id=pad_id)

    own: dict[str, float] = {}
    for name in names:
        own |= losses([float(other == name) for other in names], [name])
    return Bounds(uniform=losses([1 / len(names)] * len(names), names), own=own)


def engine_evaluations(
    new_model: Callable[[], XLoraModel],
    train: Examples,
    held_out: Examples,
    *,
    pad_id: int,
    clock: Callable[[], float],
) -> Iterator[Evaluation]:
    """Hidden states and routing warm start, anew for each budget; all but the evaluation is timed."""
    for steps in STEPS:
        model = new_model()
        started = clock()
        examples = routed_examples(model, {d: list(of) for d, of in train.items()}, pad_id=pad_id)
        result = warm_start(model.head, examples, replace(ROUTING, steps=steps))
        seconds = clock() - started
        losses = held_out_losses(_logits(model.eval()), held_out, pad_id=pad_id)
        model.unload()
        yield Evaluation(seconds=seconds, steps=result.steps, losses=losses)


def peft_evaluations(
    model: torch.nn.Module,
    train: Examples,
    held_out: Examples,
    *,
    pad_id: int,
    learning_rate: float,
    batch_size: int,
    limit_s: float,
    clock: Callable[[], float],
) -> Iterator[Evaluation]:
    """PEFT's head trained on the same examples' answers, as the Trainer does; ends at the limit."""
    examples = [example for of_domain in train.values() for example in of_domain]
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(head, lr=learning_rate, weight_decay=0.0)
    batches, steps, spent = _batches(examples, batch_size), 0, 0.0
    for share in EVALUATED_AFTER:
        model.train()
        while spent < share * limit_s:
            started = clock()
            batch = collate([examples[index] for index in next(batches)], pad_id=pad_id)
            loss = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                labels=batch.labels,
            ).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head, GRADIENT_NORM)
            optimiser.step()
            spent, steps = spent + clock() - started, steps + 1
        losses = held_out_losses(_logits(model.eval()), held_out, pad_id=pad_id)
        yield Evaluation(seconds=spent, steps=steps, losses=losses)


def main() -> None:
    """Measure ours, then PEFT for N times as long; both go to a file and the screen."""
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    subject = Subject.read(asked.subject or find_or_make(asked.home))
    tokenizer = load_tokenizer(subject.base)
    pad_id = pad_token(tokenizer)
    train = {d: examples[:ROUTED_EXAMPLES] for d, examples in domain_examples(tokenizer, "train").items()}
    held_out = {d: examples[: asked.held_out] for d, examples in domain_examples(tokenizer, "eval").items()}
    base = load_base(subject.base, dtype=DTYPE, device=device)

    def new_model() -> XLoraModel:
        return XLoraModel.from_adapters(base, subject.experts, HEAD, seed=asked.seed)

    model = new_model()
    head = {name: value.clone() for name, value in model.head.state_dict().items()}
    between = bounds(model, held_out, pad_id=pad_id)
    model.unload()
    print(json.dumps(asdict(between)), flush=True)
    found: dict[str, list[Evaluation]] = {}
    found["ours"] = until_reached(
        "ours", engine_evaluations(new_model, train, held_out, pad_id=pad_id, clock=clock), between
    )
    limit_s = asked.times * found["ours"][-1].seconds
    for rate in asked.learning_rates:
        base = load_base(subject.base, dtype=DTYPE, device=device)
        theirs = new_peft_xlora(base, subject.experts.values(), HEAD, head)
        evaluations = peft_evaluations(
            theirs,
            train,
            held_out,
            pad_id=pad_id,
            learning_rate=rate,
            batch_size=asked.batch_size,
            limit_s=limit_s,
            clock=clock,
        )
        name = f"peft, learning rate {rate:g}"
        found[name] = until_reached(name, evaluations, between)
    record = {
        "bounds": asdict(between),
        **{name: [asdict(evaluation) for evaluation in of] for name, of in found.items()},
    }
    asked.out.write_text(json.dumps(record, indent=1), encoding="utf-8")


def until_reached(name: str, evaluations: Iterator[Evaluation], between: Bounds) -> list[Evaluation]:
    """The evaluations up to the first that reached the goal, printed as they come."""
    seen = []
    for evaluation in evaluations:
        seen.append(evaluation)
        share = between.share(evaluation.losses)
        losses = ", ".join(f"{domain} {loss:.3f}" for domain, loss in evaluation.losses.items())
        spent = f"{evaluation.steps} steps, {evaluation.seconds:.1f} s"
        print(f"{name}: {spent}: {share:.3f} ({losses})", flush=True)
        if share >= GOAL:
            break
    return seen


def _mean_loss(call: Callable[..., Tensor], examples: Sequence[EncodedExample], *, pad_id: int) -> float:
    total, tokens = 0.0, 0
    with torch.no_grad():
        for indices in length_grouped(examples, tokens_per_batch=1024):
            batch = collate([examples[index] for index in indices], pad_id=pad_id)
            logits = call(batch.input_ids, batch.attention_mask, batch.position_ids, batch.keep)
            labels = batch.labels[:, -batch.keep :][:, 1:]
            total += float(
                F.cross_entropy(
                    logits[:, :-1].float().flatten(0, 1),
                    labels.flatten().to(logits.device),
                    ignore_index=IGNORED,
                    reduction="sum",
                )
            )
            tokens += int((labels != IGNORED).sum())
    return total / tokens


def _logits(model: torch.nn.Module) -> Callable[..., Tensor]:
    def call(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int) -> Tensor:
        logits: Tensor = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=keep,
            use_cache=False,
        ).logits
        return logits

    return call


def _batches(examples: Sequence[EncodedExample], batch_size: int) -> Iterator[list[int]]:
    """Batches of indices in endless epochs, each example once an epoch."""
    steps = -(-len(examples) // batch_size)
    for epoch in count():
        yield from training_order(examples, batch_size=batch_size, steps=steps, seed=epoch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_quality", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=float, default=20.0, help="PEFT may take this many times as long")
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", default=[1e-3, 1e-4], help="of PEFT's head"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="of PEFT's training")
    parser.add_argument("--held-out", type=int, default=24, help="held-out examples of each domain")
    parser.add_argument("--seed", type=int, default=0, help="of the random head that both start from")
    parser.add_argument("--home", type=Path, default=HOME, help="folder of the models that are measured")
    parser.add_argument("--subject", type=Path, help="a subject.json of another base model and composition")
    parser.add_argument("--out", type=Path, default=Path("time-to-quality.json"))
    return parser


if __name__ == "__main__":
    main()
