"""Second stage of training a scaling head: the language-model loss, through the mixture pass alone."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xlora_engine.data.chat import EncodedExample
from xlora_engine.errors import ConfigInvalid, TrainingStopped
from xlora_engine.head_training.batches import batches, looked_at
from xlora_engine.head_training.best_state import BestState, StageResult
from xlora_engine.head_training.horizon import Horizon
from xlora_engine.head_training.kept_routing import KeptRouting
from xlora_engine.head_training.mixture_loss import losses_in_parts
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import MixtureTraining
from xlora_engine.head_training.stage_checkpoints import StageCheckpoints, StageState
from xlora_engine.head_training.warm_start import StageStep, require_finite
from xlora_engine.mixture.head import seeded_dropout
from xlora_engine.mixture.mixture import Mixture

#: Held-out examples in one forward pass.
_HELD_OUT_BATCH = 16


def train_mixture(
    model: Mixture,
    encoded: Sequence[EncodedExample],
    examples: RoutedExamples,
    settings: MixtureTraining,
    *,
    pad_id: int,
    checkpoints: StageCheckpoints | None = None,
    on_step: Callable[[StageStep], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> StageResult:
    """Train the head (and the experts, where configured) on the loss of the answers' tokens.

    Every layer has its own gate to learn, and begins with the one it has. Hidden states come from
    `examples`, so each step is one forward and backward through the mixture pass; labels of examples that
    belong to one expert go on counting, as `routing_weight` says. Stops early on held-out loss and restores
    the best state. With checkpoints, a second call with the same arguments goes on from the last one, to the
    same weights as an uninterrupted run, unless a time ends it.

    Raises:
        ConfigInvalid: uneven load is to count, of a head whose scalings are no shares.
        TrainingDiverged: a loss or gradient is not finite.
        TrainingStopped: `stop` answered true; a checkpoint was written first, if they are used.
    """
    _require_shares(model, settings)
    run = _Run(model, encoded, examples, settings, pad_id=pad_id)
    if settings.steps == 0:
        only = run.held_out_loss()
        model.eval()
        return StageResult(steps=0, first_held_out_loss=only, best_held_out_loss=only, best_step=0)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    last = None if checkpoints is None else checkpoints.last()
    best = BestState(trained, run.held_out_loss() if last is None else 0.0)
    with _learning(model, settings) as learning, seeded_dropout(settings.seed, model.device):
        optimiser = torch.optim.AdamW(
            learning, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.95)
        )
        stage = StageState(trained, optimiser, best, model.device)
        step, horizon, drawn = 0, Horizon(settings=settings), batches(examples, settings)
        if last is not None:
            step = stage.load(last)
            horizon = Horizon(settings=settings, spent_s=last.get("spent_s", 0.0))
            deque(islice(drawn, step), maxlen=0)  # the batches of the steps that are done

        def keep(step: int) -> None:
            if checkpoints is not None:
                checkpoints.write(step, {**stage.state(step), "spent_s": horizon.elapsed_s})

        model.train()
        while horizon.progress(step) < 1 and best.age < settings.patience:
            if stop():
                keep(step)
                raise TrainingStopped(f"mixture training was stopped after {step} steps")
            for group in optimiser.param_groups:
                group["lr"] = horizon.learning_rate(step)
            step += 1
            loss, norm = run.step(next(drawn), optimiser, step)
            evaluated = None
            if step % settings.evaluate_every == 0 or horizon.progress(step) >= 1:
                evaluated = run.held_out_loss()
                best.offer(evaluated, step)
            on_step(StageStep(step=step, loss=require_finite(loss, step), held_out_loss=evaluated))
            # Before the weights are kept: the next step's loss would show it too late.
            require_finite(norm, step, what="gradient norm")
            if checkpoints is not None and checkpoints.is_due:
                keep(step)
        keep(step)  # what follows this stage may be interrupted too
    model.eval()
    return best.restore(step)


def _require_shares(model: Mixture, settings: MixtureTraining) -> None:
    config = model.config
    shares = config.enable_softmax or config.enable_softmax_topk or config.sigmoid_floor is not None
    if settings.load_penalty and not shares:
        allowed = "0 where the raw logits weigh the experts"
        raise ConfigInvalid("load_penalty", allowed, settings.load_penalty)


class _Run:
    """The losses of one run."""

    def __init__(
        self,
        model: Mixture,
        encoded: Sequence[EncodedExample],
        examples: RoutedExamples,
        settings: MixtureTraining,
        *,
        pad_id: int,
    ) -> None:
        self._model = model
        self._encoded = encoded
        self._examples = examples
        self._settings = settings
        self._pad_id = pad_id
        self._kept = KeptRouting.of(examples, settings)
        self._looked_at = looked_at(examples)

    def held_out_loss(self) -> float:
        """Mean loss (nats a token) of the held-out examples that are looked at."""
        self._model.eval()  # the head's dropout would add noise to the comparison
        at_once = min(self._settings.micro_batch_size or _HELD_OUT_BATCH, _HELD_OUT_BATCH)
        with torch.no_grad():
            losses = [float(loss) for loss in self._losses(self._looked_at, at_once)]
        self._model.train()
        return sum(losses)

    def step(
        self, indices: Sequence[int], optimiser: torch.optim.Optimizer, step: int
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """One optimiser step; the examples' mean loss before it, and the norm of all gradients."""
        optimiser.zero_grad()
        loss = torch.zeros((), device=self._model.device)
        at_once, penalty = self._settings.micro_batch_size or len(indices), self._settings.load_penalty
        for part in self._losses(indices, at_once, load_penalty=penalty):
            part.backward()
            loss += part.detach()
        if self._kept is not None:
            self._kept.loss(self._model.head, step).backward()
        learning = [value for group in optimiser.param_groups for value in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(learning, self._settings.gradient_norm)
        optimiser.step()
        return loss, norm

    def _losses(
        self, indices: Sequence[int], at_once: int, *, load_penalty: float = 0.0
    ) -> Iterator[Float[Tensor, ""]]:
        return losses_in_parts(
            self._model,
            self._encoded,
            self._examples,
            indices,
            at_once,
            self._pad_id,
            load_penalty=load_penalty,
        )


@contextmanager
def _learning(model: Mixture, settings: MixtureTraining) -> Iterator[list[nn.Parameter]]:
    """The parameters that learn: all that are trained, or these without the head's shared layers."""
    shared = [] if settings.shared_layers else [*model.head.layers[:-1].parameters()]
    still = [value for value in shared if value.requires_grad]
    for value in still:
        value.requires_grad_(False)
    try:
        yield [value for value in model.parameters() if value.requires_grad]
    finally:
        for value in still:
            value.requires_grad_(True)
