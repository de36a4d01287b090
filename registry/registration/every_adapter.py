"""Registering every adapter below a folder at once, as names or as versions: all of them, or none."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from registry.database.database import Database
from registry.entities import AdapterVersion
from registry.errors import Incompatible, InvalidAdapter
from registry.files.artifacts import ArtifactStore
from registry.files.staging import Staging
from registry.intake.folders.places import adapters_in
from registry.intake.proven_adapter import ProveAdapter
from registry.registration.adapters import (
    AdapterLabels,
    Bases,
    ExaminedAdapter,
    examine_adapter,
    record_adapter,
)

#: Each under a name of its own, or all as versions of one name.
NAMES, VERSIONS = "names", "versions"

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def register_every_adapter(
    folder: Path,
    *,
    all_as: str,
    prove: ProveAdapter | None = None,
    labels: AdapterLabels,
    bases: Bases,
    database: Database,
    artifacts: ArtifactStore,
) -> tuple[AdapterVersion, ...]:
    """Register the adapters in and below `folder`, in the order of the numbers in their paths.

    `all_as` is "versions", of one name, or "names": each is called `<name>-<path of its folder>`, and one in
    `folder` itself by the name alone.

    Raises:
        InvalidAdapter: there is none, or some cannot be registered; then none is, and the message names each.
        InvalidName: a folder's name makes a name that is too long.
    """
    subfolders = adapters_in(folder)
    if not subfolders:
        raise InvalidAdapter(f"{folder} holds no adapter, and no folder below it does")
    with ExitStack() as stagings:
        copies = [stagings.enter_context(artifacts.staging()) for _ in subfolders]
        examined = _examined(
            folder,
            subfolders,
            copies,
            all_as=all_as,
            prove=prove,
            labels=labels,
            bases=bases,
            store=artifacts,
        )
        stored = [
            artifacts.store(*pair)
            for pair in zip(copies, (one.manifest.files for one in examined), strict=True)
        ]
    return tuple(
        record_adapter(one, files, holder=None, database=database)
        for one, files in zip(examined, stored, strict=True)
    )


def _examined(
    folder: Path,
    subfolders: Sequence[str],
    copies: Sequence[Staging],
    *,
    all_as: str,
    prove: ProveAdapter | None,
    labels: AdapterLabels,
    bases: Bases,
    store: ArtifactStore,
) -> list[ExaminedAdapter]:
    examined, refused = [], []
    for subfolder, staging in zip(subfolders, copies, strict=True):
        own = replace(labels, name=_name(labels.name, subfolder)) if all_as == NAMES else labels
        try:
            examined.append(
                examine_adapter(
                    folder,
                    staging,
                    subfolder=subfolder or None,
                    prove=prove,
                    labels=own,
                    bases=bases,
                    artifacts=store,
                )
            )
        except (InvalidAdapter, Incompatible) as refusal:
            refused.append(f"{subfolder or folder}: {refusal.code} {refusal}")
    if refused:
        raise InvalidAdapter(
            "\n  ".join(
                [f"{len(refused)} of {len(subfolders)} adapters cannot be registered, so none was:", *refused]
            )
        )
    return examined


def _name(name: str, subfolder: str) -> str:
    ending = _NO_NAME.sub("-", subfolder)
    return f"{name}-{ending}" if ending else name
