"""The files of the experts of a foreign saved model: with it, or given by the caller."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from formats.peft import CONFIG_FILE
from xlora_engine.errors import ConfigInvalid, ExpertNotFound
from xlora_engine.sources.hub import local_folder

#: Expert folders, or hub repositories, by name; in the order of the head's outputs where that matters.
Adapters = Mapping[str, str | Path]


@dataclass(frozen=True, kw_only=True)
class ExpertFiles:
    """Where the files of an expert are."""

    folder: Path
    #: What their names begin with, where the files of all experts lie in one folder.
    prefix: str = ""


def expert_names(listed: Mapping[str, str], given: Adapters | None) -> tuple[str, ...]:
    """Names of the experts, in the order of the head's outputs.

    A file may list none, or only their indices, as PEFT wants them: then `given` names them.

    Raises:
        ConfigInvalid: `given` names experts that the file does not.
    """
    names, called = tuple(listed), tuple(given or ())
    if not called or set(called) <= set(names):
        return names
    is_numbered = names == tuple(str(index) for index in range(len(names)))
    if is_numbered and len(names) in (0, len(called)):
        return called
    raise ConfigInvalid("adapters", f"folders of experts in {names}, which the saved model names", called)


def expert_files(
    folder: Path, names: tuple[str, ...], listed: Mapping[str, str], given: Adapters | None
) -> dict[str, ExpertFiles]:
    """Files of each expert: those given, else below `folder` by its name or its recorded path's last part.

    Else they are in `folder` itself, each beginning with the expert's name. Paths of the machine that trained
    it are not followed.

    Raises:
        ExpertNotFound: an expert is in none of these places.
    """
    recorded = dict(zip(names, listed.values(), strict=False))
    return {name: _files_of(folder, name, recorded.get(name, ""), given or {}) for name in names}


def flat_prefix(name: str) -> str:
    """What an expert's files are called by, where those of all experts lie in one folder."""
    return f"{name}_"


def _files_of(folder: Path, name: str, recorded: str, given: Adapters) -> ExpertFiles:
    if name in given:
        return ExpertFiles(folder=local_folder(given[name]))
    last = PureWindowsPath(PurePosixPath(recorded).name).name
    for below in (name, last):
        if below not in ("", "..") and (folder / below / CONFIG_FILE).is_file():
            return ExpertFiles(folder=folder / below)
    if (folder / f"{flat_prefix(name)}{CONFIG_FILE}").is_file():
        return ExpertFiles(folder=folder, prefix=flat_prefix(name))
    trained = f" (trained from {recorded!r})" if recorded else ""
    raise ExpertNotFound(
        f"{folder} holds no folder of expert {name!r}{trained}; "
        f"say where it is: adapters={{{name!r}: folder or hub repository}}"
    )
