"""The artifact store: whether it can be written to, and how much space is left."""

from collections.abc import Iterator

from registry.files.artifacts import ArtifactStore
from registry.service import driver_of
from registry.settings import Settings
from workers.checks.disk import free_space
from workers.checks.findings import Finding, fault


def check(settings: Settings) -> Iterator[Finding]:
    """Write a few bytes to the store, and delete them again."""
    root = settings.artifact_root
    try:
        free_bytes = ArtifactStore(root).try_writing()
    except ImportError as error:
        yield fault("artifacts", f"no driver for {root}: {error}", fix=driver_of(root.partition("://")[0]))
    except Exception as error:  # drivers of remote stores raise anything
        yield fault(
            "artifacts",
            f"{root} cannot be written to: {type(error).__name__}: {error}",
            fix="point ZOO_ARTIFACT_ROOT to a folder or URL that this account may write to",
            unreachable="://" in root,
        )
    else:
        yield free_space("artifacts", root, free_bytes)
