"""Pictures of a composition: its scores, and how it routes. Imports matplotlib when something is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: An image of this height fits a screen; layers beyond it are drawn thinner, not taller.
HEIGHT_INCHES = 6.0
DOTS_PER_INCH = 110
#: Shares from 0 to 1, every cell drawn as it is.
_HEAT: Mapping[str, Any] = {
    "aspect": "auto",
    "vmin": 0,
    "vmax": 1,
    "cmap": "viridis",
    "interpolation": "nearest",
}


def draw_scores(report: Mapping[str, Any], path: Path) -> Path:
    """Bars: answer loss of every subject on every task, with its standard error."""
    figure, axes = _subplots(1, width=1.6 * len(report["tasks"]) + 3, height=4.2)
    subjects = report["subjects"]
    width = 0.8 / len(subjects)
    for index, subject in enumerate(subjects):
        cells = [report["scores"][subject][task] for task in report["tasks"]]
        axes[0].bar(
            [x + (index - (len(subjects) - 1) / 2) * width for x in range(len(cells))],
            [cell["loss"] for cell in cells],
            width,
            yerr=[cell["loss_standard_error"] for cell in cells],
            label=subject,
            color=_subject_colour(index, len(subjects)),
            error_kw={"linewidth": 0.8},
        )
    axes[0].set_xticks(range(len(report["tasks"])), report["tasks"])
    axes[0].set_ylabel("answer loss (nats a token)")
    axes[0].set_title("Loss on held-out answers, lower is better")
    axes[0].margins(y=0.3)  # room for the legend above the bars
    axes[0].legend(frameon=False, ncols=3, loc="upper center")
    return _save(figure, path)


def draw_layer_map(report: Mapping[str, Any], path: Path) -> Path:
    """Heat maps: layer × expert, one panel for each task."""
    routing = report["routing"]
    figure, axes = _subplots(len(routing), width=1.9 * len(routing) + 1.5, height=HEIGHT_INCHES)
    image = None
    for axis, (task, measured) in zip(axes, routing.items(), strict=True):
        image = axis.imshow(measured["load_by_layer"], **_HEAT)
        axis.set_title(f"{task}\nentropy {measured['entropy']:.2f}", fontsize=10)
        axis.set_xticks(range(len(measured["experts"])), measured["experts"], rotation=45, ha="right")
    axes[0].set_ylabel("wrapped layer")
    figure.colorbar(image, ax=list(axes), label="mean scaling")
    return _save(figure, path)


def draw_token_maps(samples: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Heat maps: token × expert, one panel for the first sample answer of each task."""
    shown = [each for n, each in enumerate(samples) if each["task"] not in {s["task"] for s in samples[:n]}]
    figure, axes = _subplots(len(shown), width=3.2 * len(shown), height=HEIGHT_INCHES)
    for axis, sample in zip(axes, shown, strict=True):
        axis.imshow(sample["shares"], **_HEAT)
        axis.set_title(sample["task"], fontsize=9, wrap=True)
        axis.set_yticks(range(len(sample["tokens"])), map(_shown, sample["tokens"]), fontsize=6)
        axis.set_xticks(range(len(sample["experts"])), sample["experts"], rotation=45, ha="right")
    return _save(figure, path)


def _subplots(count: int, *, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    # The object interface, not pyplot: no display, no global state, safe in any thread.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, [figure.add_subplot(1, count, index + 1) for index in range(count)]


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _subject_colour(index: int, count: int) -> str:
    """Greys for what there was before, one strong colour for the composition, which comes last."""
    if index == count - 1:
        return "#d1495b"
    return f"{0.78 - 0.5 * index / max(count - 2, 1):.2f}"


def _shown(token: str) -> str:
    """A token as text that shows its line breaks, and no dollar that matplotlib would read as maths."""
    return token.replace("\n", "↵").replace("$", r"\$")
