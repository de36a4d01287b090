"""Training checkpoints in an output folder of a Trainer: which is the newest, and which was the best."""

import re
from pathlib import Path

from registry.errors import InvalidAdapter
from registry.files.linked_files import Listing
from registry.intake.folders.adapter_names import MLX_WEIGHTS_FILE, holds_adapter
from registry.intake.folders.trainer_state import TRAINER_STATE_FILE, read_trainer_state

BEST, LAST = "best", "last"

_CHECKPOINT = re.compile(
    r"(?:checkpoint|ckpt|step|iter|epoch)[-_](\d{1,12})(?:-epoch-\d+)?|global_step_?(\d{1,12})"
)
_NUMBER = re.compile(r"(\d+)")
_DIGITS = 12
#: How mlx-lm calls the weights that it saves every so many steps.
_NUMBERED = re.compile(rf"(\d{{1,{_DIGITS}}})_{re.escape(MLX_WEIGHTS_FILE)}")


def steps_of(name: str) -> int | None:
    """The number of a checkpoint's folder; None for another folder."""
    found = _CHECKPOINT.fullmatch(name.rpartition("/")[2])
    return int(next(filter(None, found.groups()))) if found else None


def natural_order(path: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts checkpoint-900 before checkpoint-1000."""
    parts = (part for part in _NUMBER.split(path) if part)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def choose_checkpoint(folder: Path, listing: Listing, *, asked: str) -> str:
    """The name of the checkpoint's folder that was asked for: "best", "last", or a number of steps.

    Raises:
        InvalidAdapter: there is none, or the best is not recorded or was deleted since.
    """
    found = {
        steps: name
        for name in listing.folders
        if (steps := steps_of(name)) is not None and _is_one(listing, name)
    }
    if not found:
        raise InvalidAdapter(
            f"{folder} has no training checkpoint of an adapter (a folder checkpoint-500, for example);"
            " leave --checkpoint out, or give the folder in which they lie"
        )
    there = ", ".join(found[steps] for steps in sorted(found))
    if asked == LAST:
        return found[max(found)]
    if asked == BEST:
        return _best(folder, listing, found, there)
    steps = int(asked) if asked.isdecimal() and len(asked) <= _DIGITS else steps_of(asked)
    if steps not in found:
        raise InvalidAdapter(f"{folder} has no checkpoint {asked}; there are {there}, or say best or last")
    return found[steps]


def numbered_weights(listing: Listing, *, asked: str) -> str | None:
    """The weights of a checkpoint of mlx-lm, which lies beside the adapter under a number; None without one.

    The last is the adapter itself.
    """
    found = {int(match[1]): name for name in listing.files if (match := _NUMBERED.fullmatch(name))}
    if not found or asked == BEST:
        return None
    if asked == LAST:
        return MLX_WEIGHTS_FILE if MLX_WEIGHTS_FILE in listing.files else found[max(found)]
    return found.get(int(asked)) if asked.isdecimal() and len(asked) <= _DIGITS else None


def _is_one(listing: Listing, name: str) -> bool:
    folder = listing.folders[name]
    try:
        return holds_adapter([path.name for path in folder.iterdir()])
    except OSError:
        return False


def _best(folder: Path, listing: Listing, found: dict[int, str], there: str) -> str:
    # The state beside the newest checkpoint knows of all before; the one above, of the whole training.
    states = [listing.files.get(TRAINER_STATE_FILE)]
    states += [listing.folders[found[steps]] / TRAINER_STATE_FILE for steps in sorted(found, reverse=True)]
    for path in states:
        state = read_trainer_state(path) if path is not None else None
        if state is None or state.best_checkpoint is None:
            continue
        steps = steps_of(state.best_checkpoint)
        if steps in found:
            return found[steps]
        raise InvalidAdapter(
            f"the best checkpoint of {folder} was {state.best_checkpoint}, as {path} says, and is no longer"
            f" there; there are {there}"
        )
    raise InvalidAdapter(
        f"no {TRAINER_STATE_FILE} in {folder} says which checkpoint was best: there was no evaluation for"
        f" metric_for_best_model; say --checkpoint last, or one of {there}"
    )
