"""The rooms of each package: a table of their docstrings, and a drawing.

The order is the one that `tests/test_architecture.py` holds: a room imports from itself and those before it.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.generated.errors import ROOT, TextMissing
from docs.generated.markdown import first_sentence, table
from tests.test_architecture import APART, PACKAGES, ROOMS

_WIDTH, _GAP = 900, 44
_ROOM_WIDTH, _ROOM_HEIGHT, _STEP = 126, 30, 136
#: Background and border of a room, by package.
_COLOURS = {"workers": ("#fbe9e7", "#e64a19")}
_OTHERS = ("#e0f2f1", "#00796b")
_GREY = "#607d8b"
_ARROW_HEAD = (
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
    f' orient="auto"><path d="M0 0 10 5 0 10z" fill="{_GREY}"/></marker></defs>'
)


def rooms(root: Path = ROOT) -> dict[str, tuple[str, ...]]:
    """Package -> its rooms, in their order; the package that imports all others first."""
    return {
        package: tuple(name for name in ROOMS.get(package, ()) if name and (root / package / name).is_dir())
        for package in reversed(PACKAGES)
        if (root / package).is_dir()
    }


def room_table() -> str:
    """Every package and its rooms, with what each is for.

    Raises:
        TextMissing: a package or room has no docstring.
    """
    names = [
        name
        for package, inside in rooms().items()
        for name in (package, *(f"{package}/{room}" for room in inside))
    ]
    return table(("Room", "What it holds"), [(f"`{name}/`", text_of(ROOT / name)) for name in names])


def text_of(folder: Path) -> str:
    """What a room is for, by its own words.

    Raises:
        TextMissing: it has no docstring.
    """
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    if not text:
        raise TextMissing(f"{folder.name}/__init__.py has no docstring")
    return first_sentence(text)


def drawing(packages: Mapping[str, Sequence[str]]) -> str:
    """An SVG of the command and the packages with their rooms, each above what it imports."""
    shapes = [*_frame("zoo.py", (), x=350, y=10, width=200)]
    bottom, above = 10 + _height((), 200), [_WIDTH // 2]
    for tier in _tiers(packages):
        top, width = bottom + _GAP, 420 if len(tier) > 1 else 710
        lefts = [20 + index * 440 if len(tier) > 1 else (_WIDTH - width) // 2 for index in range(len(tier))]
        middles = [left + width // 2 for left in lefts]
        shapes += [_arrow(middle, bottom, top) for middle in max(above, middles, key=len)]
        for package, left in zip(tier, lefts, strict=True):
            shapes += _frame(package, packages[package], x=left, y=top, width=width)
        bottom, above = top + max(_height(packages[package], width) for package in tier), middles
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 10}" width="{_WIDTH}"'
        f' height="{bottom + 10}" font-family="system-ui, sans-serif" font-size="13" fill="#263238">'
    )
    return "\n".join([head, "<title>The packages and their rooms</title>", _ARROW_HEAD, *shapes, "</svg>\n"])


def _tiers(packages: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Packages side by side where neither knows the other."""
    tiers: list[list[str]] = []
    for package in packages:
        if tiers and {package, *tiers[-1]} <= APART:
            tiers[-1].append(package)
        else:
            tiers.append([package])
    return tiers


def _frame(package: str, inside: Sequence[str], *, x: int, y: int, width: int) -> list[str]:
    fill, border = _COLOURS.get(package, _OTHERS)
    outline = border if inside else _GREY
    shapes = [
        _box(x, y, width, _height(inside, width), fill="#fafafa", border=outline),
        f'<text x="{x + 14}" y="{y + 22}" font-size="14" font-weight="600">{package}</text>',
    ]
    for index, room in enumerate(inside):
        row, column = divmod(index, _columns(width))
        left, top = x + 10 + column * _STEP, y + 34 + row * 38
        shapes += [
            _box(left, top, _ROOM_WIDTH, _ROOM_HEIGHT, fill=fill, border=border),
            f'<text x="{left + _ROOM_WIDTH // 2}" y="{top + 20}" text-anchor="middle">{room}</text>',
        ]
    return shapes


def _arrow(x: int, start: int, end: int) -> str:
    path = f"M{x} {start}V{end - 2}"
    return f'<path d="{path}" stroke="{_GREY}" stroke-width="1.6" marker-end="url(#arrow)"/>'


def _box(x: int, y: int, width: int, height: int, *, fill: str, border: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{border}"/>'


def _height(inside: Sequence[str], width: int) -> int:
    return 36 + 38 * -(-len(inside) // _columns(width))


def _columns(width: int) -> int:
    return (width - 10) // _STEP
