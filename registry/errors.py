"""Everything `registry` raises on purpose.

RegistryError                   ZOO-E200  exit 1
├── NotFound                    ZOO-E210  exit 3  no record has this reference
│   ├── BaseNotFound            ZOO-E211
│   ├── AdapterNotFound         ZOO-E212
│   ├── DatasetNotFound         ZOO-E213
│   │   └── DatasetFileNotFound ZOO-E217
│   ├── CompositionNotFound     ZOO-E214
│   ├── JobNotFound             ZOO-E215
│   ├── AliasNotFound           ZOO-E216
│   └── SubjectNotFound         ZOO-E218
├── Conflict                    ZOO-E220  exit 5  the state of the registry does not allow it now
│   ├── AliasMoved              ZOO-E221  the alias points to another version than expected
│   ├── InUse                   ZOO-E222  a composition or a record still needs it
│   ├── NameTaken               ZOO-E223  the name already belongs to another record
│   ├── LeaseLost               ZOO-E224  the job's fence is no longer the caller's
│   └── KeyReused               ZOO-E225  an idempotency key was used before for another request
├── InvalidInput                ZOO-E230  exit 1  the input is not valid
│   ├── InvalidName             ZOO-E231  exit 2
│   ├── InvalidReference        ZOO-E232  exit 2
│   ├── InvalidSetting          ZOO-E233  exit 2
│   ├── InvalidField            ZOO-E234  exit 2
│   ├── InvalidAdapter          ZOO-E240
│   │   ├── AdapterConfigInvalid ZOO-E241
│   │   ├── WeightsInvalid      ZOO-E242
│   │   ├── PickleRefused       ZOO-E243
│   │   ├── NotALora            ZOO-E244
│   │   └── ChangesNothing      ZOO-E245
│   ├── InvalidBase             ZOO-E250
│   ├── InvalidDataset          ZOO-E260  with the line number
│   └── InvalidComposition      ZOO-E265
├── Incompatible                ZOO-E270  exit 4  an adapter that fits no base model, or not this one
├── ArtifactError               ZOO-E280  exit 1  a stored file cannot be written or read
│   ├── DigestMismatch          ZOO-E281
│   ├── ArtifactMissing         ZOO-E282
│   └── DiskFull                ZOO-E283
├── SchemaMismatch              ZOO-E285  exit 1  the database is of another release
└── ServiceUnreachable          ZOO-E290  exit 6
    └── DatabaseUnreachable     ZOO-E291
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from formats import errors


class RegistryError(Exception):
    """Root of what this package raises; `code` is stable, `exit_code` is the command's exit code."""

    code = "ZOO-E200"
    exit_code = 1
    #: One of `jobs.states.REASONS`: what a job ends for that raises it; its budget decides on a retry.
    reason = "error"


class NotFound(RegistryError):
    """No record has this reference; `nearest` holds similar names."""

    code = "ZOO-E210"
    exit_code = 3
    reason = "bad_input"
    kind = "record"
    command = "zoo --help"

    def __init__(
        self, reference: object, *, nearest: Sequence[str] = (), detail: str = "", command: str = ""
    ) -> None:
        hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
        reason = f": {detail}" if detail else ""
        look = command or self.command
        super().__init__(f"no {self.kind} {str(reference)!r}{reason}{hint}; list them with: {look}")
        self.reference = str(reference)
        self.nearest = tuple(nearest)
        self.detail = detail


class BaseNotFound(NotFound):
    """There is no base model with this name or digest."""

    code = "ZOO-E211"
    kind = "base model"
    command = "zoo bases ls"


class AdapterNotFound(NotFound):
    """There is no such adapter, or no such version of it."""

    code = "ZOO-E212"
    kind = "adapter"
    command = "zoo adapters ls"


class DatasetNotFound(NotFound):
    """There is no such dataset, or no such version of it."""

    code = "ZOO-E213"
    kind = "dataset"
    command = "zoo datasets ls"


class DatasetFileNotFound(DatasetNotFound):
    """The reference is the path of a dataset's file that does not exist."""

    code = "ZOO-E217"
    kind = "dataset file"

    def __init__(self, path: Path, *, nearest: Sequence[str] = ()) -> None:
        super().__init__(
            path,
            nearest=nearest,
            detail=f"no such file in {path.absolute().parent}",
            command=f"ls {shlex.quote(str(path.parent))}, and what is registered with: {self.command}",
        )


class CompositionNotFound(NotFound):
    """There is no such composition, or no such version of it."""

    code = "ZOO-E214"
    kind = "composition"
    command = "zoo compositions ls"


class JobNotFound(NotFound):
    """There is no job with this number."""

    code = "ZOO-E215"
    kind = "job"
    command = "zoo jobs ls"


class AliasNotFound(NotFound):
    """The name exists, the alias does not."""

    code = "ZOO-E216"
    kind = "alias"


class SubjectNotFound(NotFound):
    """There is no composition, adapter or base model with this reference."""

    code = "ZOO-E218"
    kind = "composition, adapter or base model"
    command = "zoo compositions ls, zoo adapters ls or zoo bases ls"


class Conflict(RegistryError):
    """The request is valid, but the state of the registry does not allow it now."""

    code = "ZOO-E220"
    exit_code = 5


class AliasMoved(Conflict):
    """An alias points to another version than the caller expected; nothing was changed."""

    code = "ZOO-E221"

    def __init__(self, target: str, *, expected: int | None, actual: int | None) -> None:
        super().__init__(
            f"{target} points to {_version(actual)}, expected {_version(expected)}; nothing was changed:"
            " repeat the command with the version that it points to now"
        )
        self.expected = expected
        self.actual = actual


class InUse(Conflict):
    """The record cannot be removed, because the records in `users` need it."""

    code = "ZOO-E222"

    def __init__(self, reference: str, *, users: Sequence[str], remedy: str) -> None:
        super().__init__(f"{reference} is used by {', '.join(users)}; {remedy}")
        self.users = tuple(users)


class NameTaken(Conflict):
    """The name already belongs to another record."""

    code = "ZOO-E223"


class LeaseLost(Conflict):
    """The caller no longer holds the job under this fence, so its result is discarded."""

    code = "ZOO-E224"

    def __init__(self, job_id: int, *, fence: int | None) -> None:
        super().__init__(
            f"job {job_id} is no longer running under fence {fence}: another attempt holds it, or it has"
            f" ended; nothing was recorded; see: zoo jobs show {job_id}"
        )
        self.job_id = job_id
        self.fence = fence


class KeyReused(Conflict):
    """An idempotency key was used before for another request."""

    code = "ZOO-E225"


class InvalidInput(RegistryError):
    """The input is not valid; the message names the field or file and the value."""

    code = "ZOO-E230"
    reason = "bad_input"


class InvalidName(InvalidInput):
    """A name outside the rule [A-Za-z0-9][A-Za-z0-9._-]{0,127}."""

    code = "ZOO-E231"
    exit_code = 2


class InvalidReference(InvalidInput):
    """A text that is none of `bio`, `bio@3`, `bio@champion` and `bio@sha256:ab12`, or is ambiguous."""

    code = "ZOO-E232"
    exit_code = 2


class InvalidSetting(InvalidInput):
    """An environment variable has an invalid value."""

    code = "ZOO-E233"
    exit_code = 2


class InvalidField(errors.InvalidField, InvalidInput):
    """An argument outside its allowed values."""

    code = "ZOO-E234"
    exit_code = 2


class InvalidAdapter(InvalidInput):
    """The folder is not an adapter that can be registered."""

    code = "ZOO-E240"


class AdapterConfigInvalid(InvalidAdapter):
    """adapter_config.json has a field with a wrong name, type or value."""

    code = "ZOO-E241"


class WeightsInvalid(InvalidAdapter):
    """The safetensors file is damaged, or its tensors are not pairs of LoRA factors."""

    code = "ZOO-E242"


class PickleRefused(InvalidAdapter):
    """The file is a pickle, which could run code when it is loaded."""

    code = "ZOO-E243"


class NotALora(InvalidAdapter):
    """The folder holds a PEFT adapter of another type than LoRA."""

    code = "ZOO-E244"


class ChangesNothing(InvalidAdapter):
    """The adapter's weight update is zero in every module, so it changes no output."""

    code = "ZOO-E245"


class InvalidBase(InvalidInput):
    """The folder is not a base model that can be registered."""

    code = "ZOO-E250"


class InvalidDataset(InvalidInput):
    """A dataset's file has an invalid example; `line` counts from 1, or is None for the whole file."""

    code = "ZOO-E260"

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class InvalidComposition(InvalidInput):
    """The folder is not a saved composition of the experts it was registered with."""

    code = "ZOO-E265"


class Incompatible(RegistryError):
    """The adapter does not fit the base model; `reasons` holds one sentence each."""

    code = "ZOO-E270"
    exit_code = 4
    reason = "bad_input"

    def __init__(self, message: str, *, reasons: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *reasons]))
        self.reasons = tuple(reasons)


class ArtifactError(RegistryError):
    """A stored file cannot be written or read."""

    code = "ZOO-E280"
    reason = "bad_input"


class DigestMismatch(ArtifactError):
    """A stored file's content has changed since it was stored."""

    code = "ZOO-E281"


class ArtifactMissing(ArtifactError):
    """A stored file is missing."""

    code = "ZOO-E282"


class DiskFull(ArtifactError):
    """No space is left for the file; nothing of it was kept."""

    code = "ZOO-E283"
    reason = "disk_full"


class SchemaMismatch(RegistryError):
    """The database is of a newer release, or needs an upgrade that this process may not make."""

    code = "ZOO-E285"
    reason = "infra"


class ServiceUnreachable(RegistryError):
    """A service that the registry depends on does not answer."""

    code = "ZOO-E290"
    exit_code = 6
    reason = "infra"


class DatabaseUnreachable(ServiceUnreachable):
    """The database does not answer, or refuses the account."""

    code = "ZOO-E291"


def _version(number: int | None) -> str:
    return f"version {number}" if number else "nothing"
