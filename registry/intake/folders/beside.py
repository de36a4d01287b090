"""What is read beside an adapter's two files: card and licence, tokenizer, the state of its training."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from registry.errors import InvalidAdapter
from registry.files.model_card import CARD_FILE
from registry.files.regular_files import read_bounded
from registry.files.staging import Staging
from registry.intake.folders.checkpoints import steps_of
from registry.intake.folders.places import AdapterPlace
from registry.intake.folders.trainer_state import TRAINER_STATE_FILE, read_trainer_state
from registry.intake.tokenizer_files import LIMIT_BYTES, NAMES, TokenizerFiles, UnreadableFile, read_tokenizer

_TEXT_LIMIT_BYTES = 1024 * 1024

#: Kept unchanged: what says who made it, and what may be done with it. Lower case.
_KEPT = ("readme.md", "licen[sc]e*", "notice*", "*use_policy*", "citation*")
#: Names that all file systems and shells read in the same way; a text of another name is not kept.
_PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")


def stage_texts(place: AdapterPlace, staging: Staging) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Copy card and licences from the adapter's folder, or from above where it has none of its own.

    Returns the names that are kept, and those that are not with what they are.
    """
    kept: dict[str, str] = {}
    refused: dict[str, str] = {}
    for listing in (place.listing, *place.above):
        found = {name: path for name, path in listing.files.items() if _is_text(name)}
        has_licence = any(name != CARD_FILE for name in kept.values())
        for name, path in found.items():
            # Above, a card or a licence counts only where nothing nearer is one.
            is_told = name.lower() in kept or (name != CARD_FILE and has_licence)
            if is_told or name in refused:
                continue
            try:
                staging.copy(path, name, refusal=InvalidAdapter, limit_bytes=_TEXT_LIMIT_BYTES)
            except InvalidAdapter:
                refused[name] = f"larger than {_TEXT_LIMIT_BYTES:,} bytes or unreadable"
                continue
            kept[name.lower()] = name
    return tuple(sorted(kept.values())), refused


def tokenizer_beside(place: AdapterPlace) -> TokenizerFiles:
    """The tokenizer beside the adapter; of a file that cannot be read it says so."""
    return read_tokenizer(place.files, lambda name: _read(place.files[name]))


def training_of(place: AdapterPlace) -> Mapping[str, Any]:
    """What a Trainer's state says of the adapter's training; empty without one.

    It lies beside the adapter or above it, or else in the newest of the checkpoints below, which is named.
    """
    path, of = place.nearest(TRAINER_STATE_FILE), {}
    if path is None:
        steps = {steps: name for name in place.listing.folders if (steps := steps_of(name)) is not None}
        if not steps:
            return {}
        of = {"of": steps[max(steps)]}
        path = place.listing.folders[of["of"]] / TRAINER_STATE_FILE
    state = read_trainer_state(path)
    return {} if state is None else {**state.stated(), **of}


def is_read(name: str) -> bool:
    """Whether a file of this name is read, so that no note calls it left out."""
    return name in NAMES or name == TRAINER_STATE_FILE


def _is_text(name: str) -> bool:
    return bool(_PLAIN.fullmatch(name)) and any(fnmatchcase(name.lower(), pattern) for pattern in _KEPT)


def _read(path: Path) -> bytes:
    return read_bounded(path, limit_bytes=LIMIT_BYTES, refusal=UnreadableFile)
