"""Which modules a configuration of PEFT makes it adapt.

Source: peft 0.21.2, `check_target_module_exists`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from formats.module_names import is_module_path
from formats.patterns import Expression, matches
from formats.peft import CONFIG_FILE
from formats.strict_json import shown

Kind = TypeVar("Kind")

#: PEFT's name for all linear layers of the decoder except the output head, in any case.
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Which modules a configuration makes PEFT adapt; it passes over the tensors of any other."""

    #: Names or paths of modules, or `all-linear` alone.
    modules: tuple[str, ...] = ()
    #: Instead of names, an expression that a whole path has to match.
    expression: str | None = None
    excluded: tuple[str, ...] = ()
    #: The same of those that are left out.
    excluded_expression: str | None = None
    #: Indices of layers, all if there are none.
    layers: tuple[int, ...] = ()
    #: Names of the lists of layers, or expressions; the first number in a path is that of a layer if there
    #: are none.
    layer_lists: tuple[str, ...] = ()

    @property
    def are_names(self) -> bool:
        """Whether there are names of modules and nothing else, which mean the same of any base model."""
        narrowed = self.excluded or self.excluded_expression is not None or self.layers
        return not narrowed and self.expression is None and self.modules != (ALL_LINEAR,)

    def included(self, paths: Iterable[str]) -> frozenset[str]:
        """Those of these modules that are adapted.

        Raises:
            PatternRefused: an expression is none, or takes too long.
        """
        wanted = [path for path in paths if _endings(path).isdisjoint(self.excluded)]
        if self.excluded_expression is not None:
            left_out = _whole(self.excluded_expression, wanted)
            wanted = [path for path in wanted if path not in left_out]
        if self.expression is not None:
            return _whole(self.expression, wanted)
        if self.modules == (ALL_LINEAR,):
            return frozenset(wanted)
        named = [path for path in wanted if not _endings(path).isdisjoint(self.modules)]
        exact = frozenset(self.modules)
        return frozenset(path for path in named if path in exact) | self._in_layers(
            [path for path in named if path not in exact]
        )

    def _in_layers(self, paths: Sequence[str]) -> frozenset[str]:
        if not self.layers or not paths:
            return frozenset(paths)
        if all(map(is_module_path, self.layer_lists)):
            return frozenset(path for path in paths if self._layer(path) in self.layers)
        lists = tuple(
            Expression(text=rf"(?:^|.*?\.){one}\.(?P<idx>\d+)\.", whole=False) for one in self.layer_lists
        )
        found: dict[str, str] = {}
        for row in matches(lists, tuple(paths)):
            for path, index in zip(paths, row, strict=True):
                if index is not None:
                    found.setdefault(path, index)
        return frozenset(path for path, index in found.items() if index and int(index) in self.layers)

    def _layer(self, path: str) -> int | None:
        names = path.split(".")
        for layer_list in self.layer_lists or (None,):
            # Something has to come before a list of any name, and after every index.
            for index in range(1 if layer_list else 2, len(names) - 1):
                if names[index].isdecimal() and layer_list in (None, names[index - 1]):
                    return int(names[index])
        return None


def targets_of(config: Mapping[str, Any]) -> Targets:
    """What an adapter_config.json states, whose fields may be of any type.

    Raises:
        ValueError: a field is of a wrong one.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        targets = [ALL_LINEAR]
    return Targets(
        modules=_texts("target_modules", targets),
        expression=targets if isinstance(targets, str) else None,
        excluded=_texts("exclude_modules", excluded),
        excluded_expression=excluded if isinstance(excluded, str) and excluded else None,
        layers=_listed("layers_to_transform", config.get("layers_to_transform"), int),
        layer_lists=_listed("layers_pattern", config.get("layers_pattern") or None, str),
    )


def passed_over(targets: Targets, paths: Sequence[str]) -> str | None:
    """What to say of the first of these modules, all with tensors, that PEFT passes over; None if of none.

    Raises:
        PatternRefused: an expression is none, or takes too long.
    """
    included = targets.included(paths)
    path = next((path for path in paths if path not in included), None)
    if path is None:
        return None
    return (
        f"there are tensors of {path}, a module that {CONFIG_FILE} leaves out by its target_modules,"
        " exclude_modules or layers_to_transform, so PEFT passes over them; give the configuration that was"
        " saved with these weights"
    )


def _texts(field: str, value: object) -> tuple[str, ...]:
    return () if isinstance(value, str) else _listed(field, value, str)


def _listed(field: str, value: object, kind: type[Kind]) -> tuple[Kind, ...]:
    """One entry, or a list of them, or nothing."""
    if value is None:
        return ()
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, kind) for entry in entries):
        raise ValueError(f"{field} must hold {kind.__name__}, got {shown(value)}")
    return tuple(entries)


def _whole(expression: str, paths: Sequence[str]) -> frozenset[str]:
    (row,) = matches((Expression(text=expression, whole=True),), tuple(paths))
    return frozenset(path for path, found in zip(paths, row, strict=True) if found is not None)


def _endings(path: str) -> set[str]:
    """A path, and what remains of it after each dot."""
    names = path.split(".")
    return {".".join(names[start:]) for start in range(len(names))}
