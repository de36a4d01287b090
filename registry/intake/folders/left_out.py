"""What of a folder is left where it is, and why, in one note; nothing of it was opened."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

#: How many names a reason has before the rest is counted.
_NAMED = 3

#: Reason -> name patterns in lower case; the first that matches decides.
_PATTERNS: Mapping[str, str] = {
    "hidden": ".*",
    "of the training": """
        optimizer* scheduler* rng_state* scaler.pt training_args* trainer_log* latest pytorch_model_fsdp*
        *zero_* *results*.json args.json *.jsonl *.yaml *.yml *.toml *.log events.out.tfevents* *.csv *.png
        *.jpg *.svg *log*.txt *log*.json global_step*
    """,
    "pickles": "*.bin *.pt *.pt2 *.pth *.ckpt *.pkl *.pickle *.joblib *.dill *.np[yz]",
    "programs": "*.py *.pyc *.sh *.ipynb *.so *.dll modelfile dockerfile makefile",
    "of the base model": """
        config.json generation_config.json *preprocessor_config.json *processor_config.json
        chat_template.json tokenizer* vocab* merges.txt added_tokens.json special_tokens*
    """,
    "other weights": "*.safetensors *.safetensors.index.json *.gguf *.onnx *.ggml *.h5 *.msgpack",
}
_REASONS = {reason: tuple(patterns.split()) for reason, patterns in _PATTERNS.items()}
_OTHERS = "no file of an adapter"


def left_out_note(
    names: Iterable[str], folders: Iterable[str], *, unusable: Mapping[str, str], adapters: Iterable[str]
) -> str | None:
    """One sentence on files and folders that are no part of the adapter; None where nothing is left out.

    `unusable` says of names what they are; `adapters` are folders that hold adapters of their own.
    """
    own = set(adapters)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_reason(name), []).append(name)
    for folder in folders:
        holds = [path for path in own if path == folder or path.startswith(f"{folder}/")]
        reason = "with adapters of their own" if holds else "hidden" if folder.startswith(".") else "folders"
        groups.setdefault(reason, []).append(f"{folder}/")
    parts = [f"{reason} ({_listed(found)})" for reason, found in groups.items()]
    parts += [f"{_shown(name)}, {what}" for name, what in sorted(unusable.items())[:_NAMED]]
    if len(unusable) > _NAMED:
        parts.append(f"and {len(unusable) - _NAMED} more such")
    if not parts:
        return None
    return f"left out unopened, because an adapter does not need it: {'; '.join(parts)}"


def _reason(name: str) -> str:
    lowered = name.lower()
    return next(
        (
            reason
            for reason, patterns in _REASONS.items()
            if any(fnmatchcase(lowered, pattern) for pattern in patterns)
        ),
        _OTHERS,
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(_shown, names[:_NAMED])) + more


def _shown(name: str) -> str:
    """A name as it goes into a message: printable, on one line, and short."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}…"
