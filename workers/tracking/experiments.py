"""The experiments that runs are kept in, one a kind of job, and what MLflow's pages show of them first."""

from collections.abc import Mapping

#: What MLflow's pages choose their tabs by: runs and charts, where they would show traces of a chat.
_KIND = {"mlflow.experimentKind": "custom_model_development"}

_NOTES = {
    "zoo/train": (
        "One run for each `zoo train`: curves as `train/loss`, the score on held-out data as `eval/loss` and"
        " `eval/exact_match`, what the adapter changes as `effect`."
    ),
    "zoo/compose": (
        "One run for each `zoo compose`: scores as `SUBJECT/TASK/METRIC`, for instance `composed/bio/loss`"
        " beside `bio/bio/loss` and `base/bio/loss`; differences with their bounds as"
        " `composed_less_bio/bio/loss_low`; which expert is used for what as `routing/TASK/EXPERT`."
        " The tag `zoo.worth_it` is the verdict."
    ),
    "zoo/eval": "One run for each `zoo eval`: scores as `SUBJECT/TASK/METRIC`.",
}


def tags_of_experiment(name: str) -> Mapping[str, str]:
    """Tags of a new experiment of this name."""
    note = _NOTES.get(name)
    return _KIND if note is None else {**_KIND, "mlflow.note.content": note}
