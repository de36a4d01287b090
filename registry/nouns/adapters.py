"""Adapters: registering, looking up, listing, removing, and aliases."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from registry.database.database import Database
from registry.database.reader import reader_over
from registry.entities import AdapterVersion, Evaluation
from registry.files.artifacts import ArtifactStore
from registry.intake.proven_adapter import ProveAdapter
from registry.lists import queries
from registry.lists.queries import Rows
from registry.nouns.versioned import Versioned
from registry.records import evaluations
from registry.records.kinds import ADAPTER
from registry.records.lookup import active_bases, find_base, find_version
from registry.records.record_rows import as_adapter, as_base
from registry.records.resolution import ACTIVE_FIRST
from registry.records.versions import Holder
from registry.registration.adapters import AdapterLabels, Bases, register_adapter
from registry.registration.every_adapter import register_every_adapter

#: Fields that tell two versions apart by themselves, or are shown in parts of their own.
_NOT_COMPARED = ("id", "name", "version", "created_at", "files", "modules", "job_id", "state")


class Adapters(Versioned[AdapterVersion]):
    """LoRA adapters and their versions."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        super().__init__(ADAPTER, database, artifacts)

    def register(
        self,
        folder: Path,
        *,
        name: str,
        subfolder: str | None = None,
        checkpoint: str | None = None,
        base: str | None = None,
        domains: Sequence[str] = (),
        tags: Sequence[str] = (),
        licence: str | None = None,
        description: str = "",
        origin: str | None = None,
        job_id: int | None = None,
        fence: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        effect_score: float | None = None,
        compute_dtype: str | None = None,
        prove: ProveAdapter | None = None,
    ) -> AdapterVersion:
        """Register an adapter version: see `registration.adapters`.

        With `job_id` and `fence`, only while that job is held under that fence, and once for each job.
        """
        labels = AdapterLabels(
            name=name,
            domains=domains,
            tags=tags,
            licence=licence,
            description=description,
            origin=origin,
            parameters=parameters or {},
            effect_score=effect_score,
            compute_dtype=compute_dtype,
        )
        return register_adapter(
            folder,
            subfolder=subfolder,
            checkpoint=checkpoint,
            prove=prove,
            labels=labels,
            bases=self._bases(base),
            holder=Holder.of(job_id, fence),
            database=self._database,
            artifacts=self._artifacts,
        )

    def register_every(
        self,
        folder: Path,
        *,
        name: str,
        all_as: str,
        base: str | None = None,
        domains: Sequence[str] = (),
        tags: Sequence[str] = (),
        licence: str | None = None,
        description: str = "",
        prove: ProveAdapter | None = None,
    ) -> tuple[AdapterVersion, ...]:
        """Register every adapter in and below a folder: see `registration.every_adapter`."""
        labels = AdapterLabels(
            name=name, domains=domains, tags=tags, licence=licence, description=description, parameters={}
        )
        return register_every_adapter(
            folder,
            all_as=all_as,
            prove=prove,
            labels=labels,
            bases=self._bases(base),
            database=self._database,
            artifacts=self._artifacts,
        )

    def _bases(self, asked: str | None) -> Bases:
        with self._database.read() as session:
            named = as_base(find_base(session, asked)) if asked else None
            return Bases(asked=named, known=() if asked else active_bases(session))

    def list(
        self,
        *,
        base: str | None = None,
        domain: str | None = None,
        trained_on: str | None = None,
        include_deleted: bool = False,
        sort: str = "name",
        limit: int | None = None,
    ) -> Rows:
        """Adapter versions as `zoo adapters ls` shows them: see `lists.queries`."""
        with self._database.read() as session:
            return queries.adapters(
                reader_over(session),
                base=base,
                domain=domain,
                trained_on=trained_on,
                include_deleted=include_deleted,
                sort=sort,
                limit=limit,
            )

    def diff(self, left: str, right: str) -> Rows:
        """The differences of two versions, even removed ones: settings, weights, newest scores.

        A row has the `field` and its value under each of the two references as they were given.
        """
        with self._database.read() as session:
            sides = {reference: self._facts(session, reference) for reference in dict.fromkeys((left, right))}
        return [
            {"field": field, left: sides[left].get(field), right: sides[right].get(field)}
            for field in dict.fromkeys((*sides[left], *sides[right]))
            if sides[left].get(field) != sides[right].get(field)
        ]

    def _facts(self, session: Session, reference: str) -> dict[str, Any]:
        """The fields in which versions may differ."""
        adapter = as_adapter(find_version(session, ADAPTER, reference, states=ACTIVE_FIRST))
        facts = {name: value for name, value in asdict(adapter).items() if name not in _NOT_COMPARED}
        settings = facts.pop("parameters")
        # The newest is first, so it overwrites older ones when they are inserted in reverse.
        measured = reversed(_evaluations(session, adapter))
        return {
            **facts,
            **{f"parameters.{name}": value for name, value in settings.items()},
            **{f"eval:{found.task}:{found.metric}": found.value for found in measured},
        }

    def _related(self, session: Session, record: AdapterVersion) -> dict[str, Any]:
        """`expert_of`: the compositions made of it; `evaluations`: what was measured of it, newest first."""
        compositions = queries.compositions(reader_over(session), expert=record.reference)
        return {
            "expert_of": [composition["reference"] for composition in compositions],
            "evaluations": [asdict(evaluation) for evaluation in _evaluations(session, record)],
        }


def _evaluations(session: Session, adapter: AdapterVersion) -> tuple[Evaluation, ...]:
    subject = f"adapter:{adapter.reference}"
    return evaluations.recorded(session, subject=subject, dataset_digest=None, task=None)
