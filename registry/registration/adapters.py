"""Registering an adapter: copied, the copy checked, a base model found for it, stored, then named."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from formats.base_modules import adaptable_modules, embedding_of
from formats.peft import WEIGHTS_FILE
from registry.crash_points import crash_point
from registry.database.database import Database
from registry.entities import AdapterVersion, BaseModel, FileRecord
from registry.errors import BaseNotFound, Incompatible
from registry.files.artifacts import ArtifactStore
from registry.files.json_text import digest_of
from registry.files.model_card import card_in
from registry.files.staging import Staging
from registry.intake.adapter_files import AdapterManifest, stage_adapter
from registry.intake.base_choice import choose_base
from registry.intake.compatibility import CompatibilityResult, noticed, refused
from registry.intake.fitting.placed_adapter import place
from registry.intake.proven_adapter import CheckedAdapter, ProveAdapter
from registry.intake.tokenizer_compatibility import tokenizer_compatibility_of
from registry.intake.tokenizer_files import TokenizerFiles, read_tokenizer
from registry.records.adapter_modules import modules_id
from registry.records.kinds import ADAPTER
from registry.records.labels import checked_labels, checked_licence, checked_line, checked_page
from registry.records.models import BaseModelRow
from registry.records.record_rows import as_adapter, file_columns
from registry.records.resolution import ACTIVE
from registry.records.versions import Holder, add_version, hold
from registry.records.words import note_words
from registry.references import checked_name


@dataclass(frozen=True, kw_only=True)
class AdapterLabels:
    """Labels of an adapter that are not in its files."""

    name: str
    domains: Sequence[str] = ()
    tags: Sequence[str] = ()
    licence: str | None = None
    description: str = ""
    #: The place of its files, if left out.
    origin: str | None = None
    parameters: Mapping[str, Any]
    effect_score: float | None = None
    compute_dtype: str | None = None

    def columns(self) -> dict[str, Any]:
        """The labels as columns.

        Raises:
            InvalidName: the name, a domain or a tag does not follow the rule.
            InvalidField: a text is too long or not printable.
        """
        checked_name(self.name, kind="adapter")
        return {
            "domains": checked_labels(self.domains, kind="domain"),
            "tags": checked_labels(self.tags, kind="tag"),
            "licence": checked_licence(self.licence),
            "description": checked_page(self.description, field="description"),
            "origin": None if self.origin is None else checked_line(self.origin, field="origin"),
            "parameters": dict(self.parameters),
            "effect_score": self.effect_score,
            "compute_dtype": self.compute_dtype,
        }


@dataclass(frozen=True, kw_only=True)
class Bases:
    """The base models that an adapter may be of."""

    #: The one that the caller named, if any.
    asked: BaseModel | None
    #: Those to choose from otherwise.
    known: Sequence[BaseModel]

    def module_paths(self) -> list[Collection[str]]:
        """The names of each one's modules that can be adapted."""
        return [
            adaptable_modules(base.modules, base.architecture)
            for base in ([self.asked] if self.asked else self.known)
        ]


@dataclass(frozen=True, kw_only=True)
class ExaminedAdapter:
    """An adapter that can be registered: its files are copied and checked, nothing is stored yet."""

    name: str
    manifest: AdapterManifest
    base: BaseModel
    results: tuple[CompatibilityResult, ...]
    labels: Mapping[str, Any]
    #: The text of its README, which it is searched by.
    card: str = ""


def register_adapter(
    folder: Path,
    *,
    subfolder: str | None = None,
    checkpoint: str | None = None,
    prove: ProveAdapter | None = None,
    labels: AdapterLabels,
    bases: Bases,
    holder: Holder | None,
    database: Database,
    artifacts: ArtifactStore,
) -> AdapterVersion:
    """Register a version; equal weights and configuration under the same name are the version that is there.

    With `prove` it is compared with what PEFT makes of it before it is stored.
    Where the adapter lies in the folder, `subfolder` and `checkpoint` say: see `intake.folders.places`.

    Raises:
        InvalidAdapter: the folder holds no LoRA adapter that can be loaded safely.
        Incompatible: no base model, or not the one asked for, can carry it, or several could.
        LeaseLost: the job no longer holds its lease; nothing was registered.
    """
    with artifacts.staging() as staging:
        examined = examine_adapter(
            folder,
            staging,
            subfolder=subfolder,
            checkpoint=checkpoint,
            prove=prove,
            labels=labels,
            bases=bases,
            artifacts=artifacts,
        )
        files = artifacts.store(staging, examined.manifest.files)
    return record_adapter(examined, files, holder=holder, database=database)


def examine_adapter(
    folder: Path,
    staging: Staging,
    *,
    subfolder: str | None = None,
    checkpoint: str | None = None,
    prove: ProveAdapter | None = None,
    labels: AdapterLabels,
    bases: Bases,
    artifacts: ArtifactStore,
) -> ExaminedAdapter:
    """Copy and check an adapter, and find its base model; raises as `register_adapter`."""
    stated = labels.columns()
    manifest = stage_adapter(
        folder, staging, subfolder=subfolder, checkpoint=checkpoint, module_paths=bases.module_paths
    )
    stated["licence"] = stated["licence"] or checked_licence(manifest.licence)
    stated["origin"] = stated["origin"] or checked_line(manifest.origin, field="origin")
    if manifest.training:
        stated["parameters"] = {"trainer_state": dict(manifest.training), **stated["parameters"]}
    manifest = replace(manifest, licence=stated["licence"])
    base, results = choose_base(manifest, bases=bases.known, asked=bases.asked)
    given, noted = staging[WEIGHTS_FILE], len(manifest.warnings)
    manifest = place(
        manifest,
        staging,
        loaded=adaptable_modules(base.modules, base.architecture),
        base_files=base.files,
        opened=artifacts.open,
    )
    results = (
        *results,
        *(noticed(text) for text in manifest.warnings[noted:]),
        *_tokenizer_results(manifest.tokenizer, base, artifacts),
    )
    if prove is not None:
        is_as_given = staging[WEIGHTS_FILE].digest == given.digest
        proven = prove(
            CheckedAdapter(
                name=labels.name,
                base=base,
                folder=staging.folder,
                given_config=manifest.config.given if is_as_given else None,
            )
        )
        stated["effect_score"] = proven.effect_score
        stated["parameters"] = {**stated["parameters"], "compared": dict(proven.comparison)}
    return ExaminedAdapter(
        name=labels.name,
        manifest=manifest,
        base=base,
        results=results,
        labels=stated,
        card=card_in(staging),
    )


def record_adapter(
    examined: ExaminedAdapter, files: tuple[FileRecord, ...], *, holder: Holder | None, database: Database
) -> AdapterVersion:
    """Write the record of an adapter whose files are stored; raises as `register_adapter`."""
    derived = _derived(examined.manifest, examined.base, files, examined.results)
    columns = {**examined.labels, **derived, "job_id": holder.job_id if holder else None}
    with database.write() as session:
        hold(session, holder)
        _lock_base(session, examined.base)
        columns["modules_id"] = modules_id(
            session, examined.manifest.config.target_modules, sorted(examined.manifest.modules)
        )
        row = add_version(session, ADAPTER, examined.name, columns, content="content_digest", holder=holder)
        note_words(session, row, card=examined.card)
        registered = as_adapter(row)
        crash_point("before_commit")
    crash_point("after_commit")
    return registered


def _tokenizer_results(
    own: TokenizerFiles, base: BaseModel, artifacts: ArtifactStore
) -> tuple[CompatibilityResult, ...]:
    """Warnings of a tokenizer or chat template beside the adapter that is not the base model's.

    Raises:
        Incompatible: it has tokens that the base model has no embedding for.
    """
    digests = {file.path: file.digest for file in base.files}
    if not own.unreadable and all(digests.get(name) == digest for name, digest in own.digests.items()):
        return ()

    def stored(name: str) -> bytes:
        return artifacts.read(digests[name])

    embedding = embedding_of(base.modules)
    results = tokenizer_compatibility_of(
        own,
        read_tokenizer(digests, stored),
        base_name=base.name,
        embeddings=None if embedding is None else embedding[0],
    )
    refusals = refused(results)
    if refusals:
        raise Incompatible(
            f"base model {base.name} cannot carry this adapter:",
            reasons=[f"{result.code} {result.message}" for result in refusals],
        )
    return results


def _derived(
    manifest: AdapterManifest,
    base: BaseModel,
    files: tuple[FileRecord, ...],
    results: Sequence[CompatibilityResult],
) -> dict[str, Any]:
    config = manifest.config
    scaling = {
        "rank": config.rank,
        "alpha": config.alpha,
        "use_rslora": config.use_rslora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
    }
    # Of what the adapter computes, without other files and the module names as listed.
    content = {"weights": manifest.weights_digest, "base": base.digest, **scaling}
    return {
        **scaling,
        "base_id": base.id,
        "parameter_count": manifest.parameter_count,
        "size_bytes": manifest.size_bytes,
        "dtype": manifest.dtype,
        "weights_digest": manifest.weights_digest,
        "content_digest": digest_of(content),
        "files": file_columns(files),
        "warnings": [result.message for result in results],
    }


def _lock_base(session: Session, base: BaseModel) -> None:
    """Keep the base model from being removed until the transaction ends."""
    row = session.get(BaseModelRow, base.id, with_for_update={"read": True})
    if row is None or row.state != ACTIVE:
        raise BaseNotFound(
            base.name, detail=f"it was removed; bring it back with: zoo bases restore {base.name}"
        )
