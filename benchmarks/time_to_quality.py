"""How long from a random scaling head to a mixture worth having: the engine's training against PEFT's.

python -m benchmarks.time_to_quality

The goal is nine tenths of the way from the uniform mixture's loss to that of each domain's own expert, on
the answers of held-out rows, in every domain. Loading and looking at the held-out loss are not counted.
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
    ROUTED_ROWS,
    ROUTING,
    Subject,
    domain_rows,
    find_or_make,
    routed_rows,
)
from xlora_engine.data.chat import IGNORED, EncodedRow, collate, length_grouped, pad_token, training_order
from xlora_engine.head_training.warm_start import warm_start
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import load_base, load_tokenizer

#: Of the way from the uniform mixture's loss to the own expert's.
GOAL = 0.9

#: Budgets of the routing warm start that are tried, each from a random head; the first to suffice counts.
STEPS = (25, 50, 100, 200, 400, 800)

#: PEFT's held-out loss is looked at after these shares of its time.
LOOKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)

#: Of the Trainer of `transformers`.
GRADIENT_NORM = 1.0

Rows = Mapping[str, Sequence[EncodedRow]]
Losses = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Held-out losses (nats a token) by domain, between which a mixture is expected."""

    uniform: Losses
    own: Losses

    def share(self, losses: Losses) -> float:
        """How much of the way from uniform to own these have come, in the domain where it is least."""
        return min(
            (self.uniform[domain] - loss) / (self.uniform[domain] - self.own[domain])
            for domain, loss in losses.items()
        )


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at the held-out loss, and what training had taken until then."""

    seconds: float
    steps: int
    losses: Losses


def held_out_losses(call: Callable[..., Tensor], rows: Rows, *, pad_id: int) -> dict[str, float]:
    """Mean loss (nats) over the answers' tokens of each domain; `call` gives the logits of a batch."""
    return {domain: _mean_loss(call, of_domain, pad_id=pad_id) for domain, of_domain in rows.items()}


def bounds(model: XLoraModel, held_out: Rows, *, pad_id: int) -> Bounds:
    """The uniform mixture and every domain's own expert; experts have their domains' names."""
    names = model.config.adapters

    def losses(values: Sequence[float], domains: Sequence[str]) -> dict[str, float]:
        with model.fixed_scalings(model.constant_scalings(values)):
            return held_out_losses(_logits(model), {d: held_out[d] for d in domains}, pad_id=pad_id)

    own: dict[str, float] = {}
    for name in names:
        own |= losses([float(other == name) for other in names], [name])
    return Bounds(uniform=losses([1 / len(names)] * len(names), names), own=own)


def engine_looks(
    new_model: Callable[[], XLoraModel],
    train: Rows,
    held_out: Rows,
    *,
    pad_id: int,
    clock: Callable[[], float],
) -> Iterator[Look]:
    """Hidden states and routing warm start, anew for each budget; everything counts but the look."""
    for steps in STEPS:
        model = new_model()
        started = clock()
        rows = routed_rows(model, {d: list(of) for d, of in train.items()}, pad_id=pad_id)
        result = warm_start(model.head, rows, replace(ROUTING, steps=steps))
        seconds = clock() - started
        losses = held_out_losses(_logits(model.eval()), held_out, pad_id=pad_id)
        model.unload()
        yield Look(seconds=seconds, steps=result.steps, losses=losses)


def peft_looks(
    model: torch.nn.Module,
    train: Rows,
    held_out: Rows,
    *,
    pad_id: int,
    learning_rate: float,
    rows_per_step: int,
    limit_s: float,
    clock: Callable[[], float],
) -> Iterator[Look]:
    """Its head on the loss of the same rows' answers, as the Trainer would; ends at the limit."""
    rows = [row for of_domain in train.values() for row in of_domain]
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(head, lr=learning_rate, weight_decay=0.0)
    batches, steps, spent = _batches(rows, rows_per_step), 0, 0.0
    for share in LOOKS:
        model.train()
        while spent < share * limit_s:
            started = clock()
            batch = collate([rows[index] for index in next(batches)], pad_id=pad_id)
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
        yield Look(seconds=spent, steps=steps, losses=losses)


def main() -> None:
    """Measure ours, then PEFT for so many times as long; both to a file and on screen."""
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    subject = Subject.read(asked.subject or find_or_make(asked.home))
    tokenizer = load_tokenizer(subject.base)
    pad_id = pad_token(tokenizer)
    train = {d: rows[:ROUTED_ROWS] for d, rows in domain_rows(tokenizer, "train").items()}
    held_out = {d: rows[: asked.held_out] for d, rows in domain_rows(tokenizer, "eval").items()}
    base = load_base(subject.base, dtype=DTYPE, device=device)

    def new_model() -> XLoraModel:
        return XLoraModel.from_adapters(base, subject.experts, HEAD, seed=asked.seed)

    model = new_model()
    head = {name: value.clone() for name, value in model.head.state_dict().items()}
    between = bounds(model, held_out, pad_id=pad_id)
    model.unload()
    print(json.dumps(asdict(between)), flush=True)
    found: dict[str, list[Look]] = {}
    found["ours"] = until_reached(
        "ours", engine_looks(new_model, train, held_out, pad_id=pad_id, clock=clock), between
    )
    limit_s = asked.times * found["ours"][-1].seconds
    for rate in asked.learning_rates:
        base = load_base(subject.base, dtype=DTYPE, device=device)
        theirs = new_peft_xlora(base, subject.experts.values(), HEAD, head)
        looks = peft_looks(
            theirs,
            train,
            held_out,
            pad_id=pad_id,
            learning_rate=rate,
            rows_per_step=asked.rows_per_step,
            limit_s=limit_s,
            clock=clock,
        )
        name = f"peft, learning rate {rate:g}"
        found[name] = until_reached(name, looks, between)
    record = {
        "bounds": asdict(between),
        **{name: [asdict(look) for look in of] for name, of in found.items()},
    }
    asked.out.write_text(json.dumps(record, indent=1), encoding="utf-8")


def until_reached(name: str, looks: Iterator[Look], between: Bounds) -> list[Look]:
    """The looks up to and with the first that reached the goal, told on screen as they come."""
    seen = []
    for look in looks:
        seen.append(look)
        share = between.share(look.losses)
        losses = ", ".join(f"{domain} {loss:.3f}" for domain, loss in look.losses.items())
        print(f"{name}: {look.steps} steps, {look.seconds:.1f} s: {share:.3f} ({losses})", flush=True)
        if share >= GOAL:
            break
    return seen


def _mean_loss(call: Callable[..., Tensor], rows: Sequence[EncodedRow], *, pad_id: int) -> float:
    total, tokens = 0.0, 0
    with torch.no_grad():
        for indices in length_grouped(rows, tokens_per_batch=1024):
            batch = collate([rows[index] for index in indices], pad_id=pad_id)
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


def _batches(rows: Sequence[EncodedRow], rows_per_step: int) -> Iterator[list[int]]:
    """Every row once an epoch, without end."""
    steps = -(-len(rows) // rows_per_step)
    for epoch in count():
        yield from training_order(rows, rows_per_batch=rows_per_step, steps=steps, seed=epoch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_quality", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=float, default=20.0, help="PEFT may take so many times as long")
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", default=[1e-3, 1e-4], help="of PEFT's head"
    )
    parser.add_argument("--rows-per-step", type=int, default=4, help="of PEFT's training")
    parser.add_argument("--held-out", type=int, default=24, help="rows of each domain that are looked at")
    parser.add_argument("--seed", type=int, default=0, help="of the random head both begin with")
    parser.add_argument("--home", type=Path, default=HOME, help="where what is measured is made and kept")
    parser.add_argument("--subject", type=Path, help="a subject.json of another base model and composition")
    parser.add_argument("--out", type=Path, default=Path("time-to-quality.json"))
    return parser


if __name__ == "__main__":
    main()
