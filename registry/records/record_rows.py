"""Conversion of rows to the frozen records that the registry returns. Runs no query."""

from collections.abc import Mapping, Sequence
from typing import Any

from registry.entities import (
    AdapterVersion,
    BaseModel,
    CompositionVersion,
    DatasetVersion,
    Evaluation,
    ExpertRecord,
    FileRecord,
)
from registry.records.models import (
    AdapterVersionRow,
    BaseModelRow,
    CompositionVersionRow,
    DatasetVersionRow,
    EvaluationRow,
)


def as_base(row: BaseModelRow) -> BaseModel:
    """The base model."""
    modules = {path: (int(d_out), int(d_in)) for path, (d_out, d_in) in row.modules.items()}
    return BaseModel(
        **_columns(BaseModel, row, modules=modules, files=_files(row.files), warnings=tuple(row.warnings))
    )


def as_adapter(row: AdapterVersionRow) -> AdapterVersion:
    """The adapter version, with the name of its base model."""
    return AdapterVersion(
        **_columns(
            AdapterVersion,
            row,
            name=row.adapter.name,
            base_name=row.base.name,
            base_digest=row.base.digest,
            target_modules=tuple(row.touched.target_modules),
            modules=tuple(row.touched.modules),
            domains=tuple(row.domains),
            tags=tuple(row.tags),
            warnings=tuple(row.warnings),
            files=_files(row.files),
        )
    )


def as_dataset(row: DatasetVersionRow) -> DatasetVersion:
    """The dataset version."""
    return DatasetVersion(
        **_columns(
            DatasetVersion,
            row,
            name=row.dataset.name,
            warnings=tuple(row.warnings),
            files=_files(row.files),
        )
    )


def as_composition(row: CompositionVersionRow) -> CompositionVersion:
    """The composition version, its experts in order."""
    experts = tuple(
        ExpertRecord(
            position=expert.position,
            name=expert.name,
            adapter_reference=f"{expert.adapter_version.adapter.name}@{expert.adapter_version.version}",
            weights_digest=expert.weights_digest,
        )
        for expert in row.experts
    )
    return CompositionVersion(
        **_columns(
            CompositionVersion,
            row,
            name=row.composition.name,
            base_name=row.base.name,
            base_digest=row.base.digest,
            experts=experts,
            files=_files(row.files),
        )
    )


def as_evaluation(row: EvaluationRow) -> Evaluation:
    """The measured value."""
    return Evaluation(**_columns(Evaluation, row, files=_files(row.files)))


def file_columns(files: Sequence[FileRecord]) -> list[dict[str, Any]]:
    """Files in the form of the column."""
    return [{"path": file.path, "digest": file.digest, "size_bytes": file.size_bytes} for file in files]


def _files(column: Sequence[Mapping[str, Any]]) -> tuple[FileRecord, ...]:
    return tuple(FileRecord(**file) for file in column)


def _columns(record: Any, row: object, **derived: Any) -> dict[str, Any]:
    """Every field of the record: derived where the row holds it in another form, else as the row has it."""
    return {
        name: derived[name] if name in derived else getattr(row, name) for name in record.__dataclass_fields__
    }
