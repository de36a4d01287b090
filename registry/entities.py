"""The frozen records that the registry returns. They know nothing of rows, sessions or files on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One stored file: its path inside the record's folder and the digest of its bytes."""

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A base model; `digest`, not the name, is its identity."""

    id: int
    name: str
    digest: str
    weights_digest: str
    config_digest: str
    tokenizer_digest: str
    chat_template_digest: str | None
    architecture: str
    hidden_size: int
    layer_count: int
    vocabulary_size: int
    dtype: str
    parameter_count: int
    size_bytes: int
    licence: str | None
    source: str
    revision: str | None
    #: Module path -> (d_out, d_in) of every linear layer an adapter could touch.
    modules: Mapping[str, tuple[int, int]]
    files: tuple[FileRecord, ...]
    #: What it cannot be used for, found when it was registered.
    warnings: tuple[str, ...] = ()
    state: str = "active"
    created_at: datetime

    @property
    def reference(self) -> str:
        """Base models have no versions: the name."""
        return self.name


@dataclass(frozen=True, kw_only=True)
class AdapterVersion:
    """One immutable version of an adapter."""

    id: int
    name: str
    version: int
    base_name: str
    base_digest: str
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    #: As the adapter's configuration lists them.
    target_modules: tuple[str, ...]
    #: Module paths that have tensors.
    modules: tuple[str, ...]
    parameter_count: int
    size_bytes: int
    dtype: str
    domains: tuple[str, ...]
    tags: tuple[str, ...]
    licence: str | None
    description: str
    #: `file:…`, `hub:<repository>@<revision>` or `job:<id>`.
    origin: str
    job_id: int | None
    #: Training settings and lineage, e.g. {"train_dataset": "bio@1", "epochs": 3}.
    parameters: Mapping[str, Any]
    #: Over tensor names, shapes and bytes, without the file's metadata.
    weights_digest: str
    files: tuple[FileRecord, ...]
    effect_score: float | None
    #: Dtype of its training, e.g. "bfloat16"; None if it was not trained here.
    compute_dtype: str | None = None
    #: Warnings of the compatibility check at registration.
    warnings: tuple[str, ...] = ()
    #: "active" or "deleted".
    state: str
    created_at: datetime

    @property
    def reference(self) -> str:
        """`bio@3`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """One immutable version of a dataset."""

    id: int
    name: str
    version: int
    digest: str
    examples: int
    domain: str | None
    #: "train", "eval" or None.
    split: str | None
    #: "chat": one example a line, as JSON; see `formats.chat_examples`.
    format: str
    licence: str | None
    origin: str
    size_bytes: int
    files: tuple[FileRecord, ...]
    #: Warnings at registration, for instance about repeated examples.
    warnings: tuple[str, ...] = ()
    #: The files that were given and what they were taken for; empty where one is stored as it was given.
    reading: Mapping[str, Any] = field(default_factory=dict)
    state: str = "active"
    created_at: datetime

    @property
    def reference(self) -> str:
        """`bio.train@1`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class NewEvaluation:
    """A measured value that is not recorded yet."""

    #: `adapter:bio@3`, `base:smollm2` or `composition:science@1`.
    subject: str
    task: str
    metric: str
    value: float
    standard_error: float | None = None
    #: Number of examples of the value.
    n: int
    dataset_digest: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: The examples one by one, as JSON lines, if they are kept.
    files: tuple[FileRecord, ...] = ()
    job_id: int | None = None
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(NewEvaluation):
    """A recorded value; subject, task, metric, dataset and settings together are unique."""

    id: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class ExpertRecord:
    """One expert of a composition: which adapter version, and the bytes it had."""

    position: int
    name: str
    adapter_reference: str
    weights_digest: str


@dataclass(frozen=True, kw_only=True)
class StoredMethod:
    """How a composition mixes its experts, as stored in its folder and its record."""

    name: str
    #: Files of the method's own, beside the experts, in the order they are stored.
    files: tuple[str, ...]
    #: What the record keeps of it as JSON; two that differ here are two versions.
    details: Mapping[str, Any]
    #: Further details: name -> which of `files` it is the weights digest of, taken of what is stored.
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CompositionVersion:
    """One immutable version of a composition."""

    id: int
    name: str
    version: int
    #: A name of the table of mixing methods, e.g. "xlora".
    method: str
    base_name: str
    base_digest: str
    experts: tuple[ExpertRecord, ...]
    #: Fields of this method alone, e.g. a scaling head's configuration and digest.
    method_details: Mapping[str, Any]
    #: Over method, details, experts and base model: equal digests compute the same.
    content_digest: str
    #: The evaluation report: losses, intervals, routing.
    report: Mapping[str, Any]
    files: tuple[FileRecord, ...]
    job_id: int | None
    state: str = "active"
    created_at: datetime

    @property
    def reference(self) -> str:
        """`science@1`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A movable name for a version: one row of its history, the newest of which is current."""

    #: "adapter", "dataset" or "composition".
    kind: str
    name: str
    alias: str
    #: None if the alias was removed.
    version: int | None
    previous: int | None
    moved_by: str
    moved_at: datetime
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A unit of work; the holder of its fence runs it."""

    id: int
    #: "train", "eval" or "compose".
    kind: str
    #: "queued", "running", "succeeded", "failed" or "cancelled".
    state: str
    #: Machine-readable cause of a terminal state, e.g. "ok", "cuda_oom"; None before.
    reason: str | None
    message: str | None
    spec: Mapping[str, Any]
    spec_digest: str
    queue: str
    priority: int
    attempt: int
    max_attempts: int
    #: Attempts that died with their worker.
    lost_attempts: int
    #: Attempts that ran out of memory; each halves the micro-batch.
    memory_cuts: int
    #: Number of processes of an attempt.
    processes: int
    #: Dtype of the last attempt, e.g. "bfloat16"; None before it is known.
    compute_dtype: str | None
    #: Raised by every claim; writes under an older fence are refused.
    fence: int
    owner: str | None
    #: The worker whose process the owner is; None for a command that runs the job itself.
    worker: str | None
    cancel_requested: bool
    #: {"step", "total", "phase", "loss", "eta_s"}, whichever are known.
    progress: Mapping[str, Any]
    outcome: Mapping[str, Any]
    log_path: str | None
    run_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    lease_until: datetime | None
    #: The time by which it is ended.
    deadline_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One line of a job's journal; `sequence` counts from 1 within the job."""

    job_id: int
    sequence: int
    at: datetime
    #: The attempt that wrote it; 0 before the first claim.
    fence: int
    kind: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BeatAnswer:
    """The answer to a heartbeat: whether the lease still holds, and whether the job is to stop."""

    alive: bool
    cancel_requested: bool
    #: Whether its deadline has passed.
    overdue: bool


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that runs queued jobs."""

    name: str
    host: str
    process_id: int
    queues: tuple[str, ...]
    #: Its GPUs, separated by commas; None without any. A job takes one for each of its processes.
    gpu: str | None
    #: "working" or "draining".
    state: str
    started_at: datetime
    seen_at: datetime
