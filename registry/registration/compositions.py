"""Registering a composition: copied, its experts found unchanged, stored, then named."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from registry.database.database import Database
from registry.entities import CompositionVersion, ExpertRecord, FileRecord, StoredMethod
from registry.errors import Incompatible, InvalidComposition
from registry.files.artifacts import ArtifactStore
from registry.files.digests import weights_digest
from registry.files.json_text import digest_of
from registry.files.safetensors_file import opened_tensors
from registry.files.staging import Staging
from registry.intake.compatibility import joint_compatibility_of, refused
from registry.intake.composition_files import composition_paths
from registry.records.kinds import ADAPTER, COMPOSITION
from registry.records.lookup import find_base, find_version
from registry.records.models import AdapterVersionRow, ExpertRow
from registry.records.record_rows import as_adapter, as_composition, file_columns
from registry.records.versions import Holder, add_version, hold
from registry.references import checked_name


def register_composition(
    folder: Path,
    *,
    name: str,
    base_digest: str,
    experts: Sequence[ExpertRecord],
    method: StoredMethod,
    report: Mapping[str, Any],
    holder: Holder | None,
    database: Database,
    artifacts: ArtifactStore,
) -> CompositionVersion:
    """Register a version; an equal mixture of equal experts under the same name is the version that is there.

    Raises:
        WeightsInvalid: weights of the method's own are damaged.
        InvalidComposition: the folder, or the list of experts, is not that of a saved composition.
        Incompatible: the experts cannot be in one composition.
        AdapterNotFound: an expert is not registered, or was removed.
        LeaseLost: the job no longer holds its lease; nothing was registered.
    """
    checked_name(name, kind="composition")
    checked_name(method.name, kind="method")
    ordered = _checked_experts(experts)
    paths = composition_paths(folder, own=method.files, experts=[expert.name for expert in ordered])
    with artifacts.staging() as staging:
        for path in paths:
            staging.copy(folder / path, path, refusal=InvalidComposition)
        details = {**method.details, **_weights_digests(folder, staging, method)}
        files = artifacts.store(staging, paths)
    with database.write() as session:
        hold(session, holder)
        adapters = [_locked_adapter(session, expert) for expert in ordered]
        _refuse_misfits(adapters, base_digest=base_digest)
        columns = _columns(method.name, details, files, base_digest=base_digest, experts=ordered)
        columns |= {
            "base_id": find_base(session, base_digest).id,
            "report": dict(report),
            "job_id": holder.job_id if holder else None,
            "experts": [
                ExpertRow(
                    position=expert.position,
                    name=expert.name,
                    adapter_version_id=adapter.id,
                    weights_digest=expert.weights_digest,
                )
                for expert, adapter in zip(ordered, adapters, strict=True)
            ],
        }
        row = add_version(session, COMPOSITION, name, columns, content="content_digest", holder=holder)
        return as_composition(row)


def _checked_experts(experts: Sequence[ExpertRecord]) -> list[ExpertRecord]:
    ordered = sorted(experts, key=lambda expert: expert.position)
    if not ordered or [expert.position for expert in ordered] != list(range(len(ordered))):
        raise InvalidComposition(
            f"experts must be at positions 0, 1, …, got {[expert.position for expert in ordered]}"
        )
    for expert in ordered:
        checked_name(expert.name, kind="expert")
    return ordered


def _locked_adapter(session: Session, expert: ExpertRecord) -> AdapterVersionRow:
    """The adapter version, kept from being removed until the transaction ends."""
    row: AdapterVersionRow = find_version(session, ADAPTER, expert.adapter_reference)
    session.refresh(row, with_for_update={"of": AdapterVersionRow, "read": True})
    # Looked up again: it may have been removed while this waited for the lock.
    find_version(session, ADAPTER, expert.adapter_reference)
    if row.weights_digest != expert.weights_digest:
        raise InvalidComposition(
            f"expert {expert.name} was made from weights {expert.weights_digest[:19]}…, but"
            f" {expert.adapter_reference} has {row.weights_digest[:19]}…; compose it again"
        )
    return row


def _refuse_misfits(adapters: Sequence[AdapterVersionRow], *, base_digest: str) -> None:
    records = [as_adapter(row) for row in adapters]
    reasons = [f"{result.code} {result.message}" for result in refused(joint_compatibility_of(records))]
    reasons += [
        f"{record.reference} is for {record.base_name}, another base model"
        for record in records
        if record.base_digest != base_digest
    ]
    if reasons:
        raise Incompatible("these adapters cannot be experts of one composition:", reasons=reasons)


def _weights_digests(folder: Path, staging: Staging, method: StoredMethod) -> dict[str, str]:
    """What identifies the weights of the method's own, of the copies that are stored."""
    digests = {}
    for detail, path in method.weights.items():
        with opened_tensors(staging[path].path, called=folder / path) as tensors:
            digests[detail] = weights_digest(tensors)
    return digests


def _columns(
    method: str,
    details: Mapping[str, Any],
    files: tuple[FileRecord, ...],
    *,
    base_digest: str,
    experts: Sequence[ExpertRecord],
) -> dict[str, Any]:
    content = {
        **details,
        "method": method,
        "base": base_digest,
        "experts": [[expert.name, expert.weights_digest] for expert in experts],
    }
    return {
        "method": method,
        "method_details": dict(details),
        "content_digest": digest_of(content),
        "files": file_columns(files),
    }
