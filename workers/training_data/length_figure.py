"""A picture of how long the sequences of a training are. Imports matplotlib when it is drawn."""

from collections.abc import Sequence
from pathlib import Path

from xlora_engine.data.chat import EncodedExample
from xlora_engine.data.training_sequences import learnt_tokens

_BINS = 40


def draw_lengths(sequences: Sequence[EncodedExample], path: Path, *, limit: int) -> Path:
    """Histograms of tokens: of whole sequences, and of what is learnt of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained", dpi=110)
    whole, learnt = figure.subplots(1, 2)
    lengths = [len(one.token_ids) for one in sequences]
    whole.hist(lengths, bins=_BINS, color="teal")
    whole.axvline(limit, color="firebrick", linewidth=1)
    whole.set_title(f"{len(lengths):,} sequences, {sum(lengths):,} tokens, limit {limit:,}")
    answers = [learnt_tokens(one) for one in sequences]
    learnt.hist(answers, bins=_BINS, color="darkorange")
    learnt.set_title(f"{sum(answers):,} tokens are learnt")
    for axes in (whole, learnt):
        axes.set_xlabel("tokens")
        axes.set_ylabel("sequences")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
