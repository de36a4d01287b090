"""Where an adapter lies in what was given: itself, a folder below, a training checkpoint, a hub's cache."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from registry.errors import InvalidAdapter
from registry.files.linked_files import Listing, boundary_of, hub_origin, list_folder, snapshot_of
from registry.intake.folders.adapter_names import holds_adapter, weights_name
from registry.intake.folders.checkpoints import choose_checkpoint, natural_order, numbered_weights, steps_of
from registry.intake.folders.no_adapter import what_instead

#: How deep and how far a folder is searched for others that hold an adapter.
_DEEPEST, _MOST_FOLDERS = 4, 2000
_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class AdapterPlace:
    """A folder that holds an adapter, and those above it up to the one that was given."""

    folder: Path
    listing: Listing
    #: The name of the weights file; None if there is none.
    weights: str | None
    #: Of the folders above, the nearest first.
    above: tuple[Listing, ...]
    #: Folders below that hold adapters of their own, by their paths.
    others: tuple[str, ...]
    #: Where it is from: `hub:<repository>@<revision>`, or `file:<path>` from the given folder's name on.
    origin: str

    @property
    def files(self) -> Mapping[str, Path]:
        """The files beside the adapter."""
        return self.listing.files

    def nearest(self, name: str) -> Path | None:
        """A file of this name beside the adapter, or above it."""
        return next((one.files[name] for one in (self.listing, *self.above) if name in one.files), None)


def find_adapter(given: Path, *, subfolder: str | None = None, checkpoint: str | None = None) -> AdapterPlace:
    """The place of the adapter in `given`, in `subfolder` below it, at the checkpoint asked for.

    `checkpoint` is "best", "last" or a number of steps.

    Raises:
        InvalidAdapter: there is none; the message names those that are below, or what is there instead.
    """
    if given.is_file() and _is_lone(given.name):
        return _single(given)
    root = snapshot_of(given if given.is_dir() else _folder_of(given), refusal=InvalidAdapter)
    within = boundary_of(root)
    folder = root if subfolder is None else _below(root, subfolder, within)
    listing = list_folder(folder, within=within, refusal=InvalidAdapter)
    weights = None
    if checkpoint is not None:
        weights = numbered_weights(listing, asked=checkpoint)
        if weights is None:
            folder = listing.folders[choose_checkpoint(folder, listing, asked=checkpoint)]
            listing = list_folder(folder, within=within, refusal=InvalidAdapter)
    weights = weights or weights_name(listing.files) or _lone_weights(listing)
    below = tuple(_adapters_below(folder, listing, within))
    if not holds_adapter([*listing.files, *listing.unusable]) and weights is None:
        raise InvalidAdapter(_absence(given, folder, listing, below))
    return AdapterPlace(
        folder=folder,
        listing=listing,
        weights=weights,
        above=tuple(_listings_above(folder, root, within)),
        others=below,
        origin=_origin(given, root, folder),
    )


def adapters_in(given: Path) -> tuple[str, ...]:
    """The paths, from `given`, of all folders that hold an adapter, numbers in their order.

    The last is empty where `given` itself does.
    """
    root = snapshot_of(given, refusal=InvalidAdapter)
    within = boundary_of(root)
    listing = list_folder(root, within=within, refusal=InvalidAdapter)
    itself = [""] if holds_adapter(listing.files) else []
    return (*_adapters_below(root, listing, within), *itself)


def _folder_of(path: Path) -> Path:
    """The folder of an adapter's file, where one was given in place of its folder."""
    if path.is_file() and holds_adapter([path.name]):
        return path.parent
    return path


def _is_lone(name: str) -> bool:
    """Whether an adapter may be this file alone, as kohya's is."""
    return name.endswith(".safetensors") and not holds_adapter([name])


def _lone_weights(listing: Listing) -> str | None:
    """The only safetensors file of a folder without any configuration, of an adapter or a model."""
    names = [name for name in listing.files if _is_lone(name)]
    is_model = any(name.endswith("config.json") or name == "model_index.json" for name in listing.files)
    return names[0] if len(names) == 1 and not is_model else None


def _single(file: Path) -> AdapterPlace:
    listing = Listing(files={file.name: file.resolve()}, folders={}, unusable={})
    return AdapterPlace(
        folder=file.parent,
        listing=listing,
        weights=file.name,
        above=(),
        others=(),
        origin=f"file:{file.name}",
    )


def _below(root: Path, subfolder: str, within: Path) -> Path:
    path = PurePosixPath(subfolder)
    folder = root.joinpath(*path.parts)
    if path.is_absolute() or ".." in path.parts or not folder.resolve().is_relative_to(within):
        raise InvalidAdapter(f"the subfolder {subfolder!r} is not below {root}; give a path from there")
    if not folder.is_dir():
        raise InvalidAdapter(f"{root} has no subfolder {subfolder!r}; it holds {_held(root, within)}")
    return folder


def _held(root: Path, within: Path) -> str:
    listing = list_folder(root, within=within, refusal=InvalidAdapter)
    return _listed([f"{name}/" for name in listing.folders] + list(listing.files)) or "nothing"


def _adapters_below(folder: Path, listing: Listing, within: Path) -> list[str]:
    found: list[str] = []
    seen = {folder.resolve()}
    level = [("", listing)]
    for _ in range(_DEEPEST):
        further: list[tuple[str, Listing]] = []
        for prefix, one in level:
            for name, path in one.folders.items():
                resolved = path.resolve()
                if name.startswith(".") or resolved in seen or len(seen) > _MOST_FOLDERS:
                    continue
                seen.add(resolved)
                try:
                    inner = list_folder(path, within=within, refusal=InvalidAdapter)
                except InvalidAdapter:  # no right to read it, say
                    continue
                further.append((f"{prefix}{name}/", inner))
                if holds_adapter(inner.files):
                    found.append(f"{prefix}{name}")
        level = further
    return sorted(found, key=natural_order)


def _listings_above(folder: Path, root: Path, within: Path) -> Iterator[Listing]:
    if folder != root and folder.is_relative_to(root):
        for parent in folder.parents:
            yield list_folder(parent, within=within, refusal=InvalidAdapter)
            if parent == root:
                return


def _absence(given: Path, folder: Path, listing: Listing, below: tuple[str, ...]) -> str:
    checkpoints = [name for name in below if "/" not in name and steps_of(name) is not None]
    if checkpoints and len(checkpoints) == len(below):
        return (
            f"{folder} holds training checkpoints ({_listed(checkpoints)}) and no adapter itself;"
            f" say which: --checkpoint last, best or {steps_of(checkpoints[-1])}"
        )
    if below:
        way = f"--subfolder {below[0]}" if folder == given else f"give {folder / below[0]}"
        every = "" if len(below) == 1 else ", or register all with --all-as names or --all-as versions"
        return (
            f"{folder} holds no adapter itself, below it {_listed(below)}"
            f" {'holds one' if len(below) == 1 else 'hold one each'}; say which: {way}{every}"
        )
    return f"{folder} holds no adapter: {what_instead([*listing.files, *listing.folders])}"


def _origin(given: Path, root: Path, folder: Path) -> str:
    below = folder.relative_to(root).as_posix() if folder != root and folder.is_relative_to(root) else ""
    return (hub_origin(root) or f"file:{given.name}") + (f"/{below}" if below else "")


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
