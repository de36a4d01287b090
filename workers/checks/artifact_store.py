"""The artifact store: whether it takes a file and gives it back, and the room that is left."""

from collections.abc import Iterator

from registry.files.artifacts import ArtifactStore
from registry.settings import Settings
from workers.checks.disk import room
from workers.checks.findings import Finding, fault


def check(settings: Settings) -> Iterator[Finding]:
    """Write a few bytes to the store, and delete them again."""
    root = settings.artifact_root
    try:
        free_bytes = ArtifactStore(root).probe()
    except ImportError as error:
        yield fault("artifacts", f"no driver for {root}: {error}", mend=_driver(root))
    except Exception as error:  # drivers of remote stores raise what they like
        yield fault(
            "artifacts",
            f"{root} takes no files: {type(error).__name__}: {error}",
            mend="point ZOO_ARTIFACT_ROOT to a place that this account may write to",
            unreachable="://" in root,
        )
    else:
        yield room("artifacts", root, free_bytes)


def _driver(root: str) -> str:
    return f"pip install 'fsspec[{root.partition('://')[0]}]'"
