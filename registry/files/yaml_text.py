"""YAML whose values are as JSON understands them, so that `2e-3` is a number and `no` is text.

YAML 1.1, which PyYAML reads, has it otherwise. What a person cannot have meant is refused: a key that is
there twice, references to anchors (a few lines can fill the memory), tags and several documents.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from formats.errors import Refusal

_MOST_BYTES = 2**20

_NULL, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
#: YAML 1.2's core schema, without octal and hexadecimal numbers and what is not finite; each with the
#: characters that it may begin with.
_PLAIN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (_NULL, r"~|null|Null|NULL|", ("~", "n", "N", "")),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    (_INT, r"[-+]?[0-9]+", tuple("-+0123456789")),
    (_FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", tuple("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's, with other plain values and stricter about keys and anchors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            where = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an anchor is used", where)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for number, (key, (key_node, _)) in enumerate(zip(keys, node.value, strict=True)):
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text", key_node.start_mark
                )
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        return int(node.value)  # "010" is ten

    def construct_yaml_float(self, node: Any) -> float:
        return float(node.value)


_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_Loader.add_constructor(_FLOAT, _Loader.construct_yaml_float)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back equal."""


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}


for _tag, _pattern, _first in _PLAIN:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))


def read_yaml_object(path: Path, *, refusal: Refusal) -> dict[str, Any]:
    """Names and values in a YAML or JSON file.

    Raises:
        refusal: there is no such file, or it is not one mapping of names to values; the message has
            line and column.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise refusal(f"{path} is larger than {_MOST_BYTES:,} bytes, which is too much to be read")
        text = path.read_text(encoding="utf-8")
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise refusal(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise refusal(f"{path} is not UTF-8: byte {error.start}; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is not YAML that can be read: {error}") from error
    except yaml.YAMLError as error:
        raise refusal(f"{path} is not YAML that can be read: {_one_line(error)}") from error
    if not isinstance(found, dict):
        raise refusal(f"{path} must hold names with values, as `name: bio`, got {found!r:.80}")
    return found


def yaml_text(fields: Mapping[str, Any]) -> str:
    """Names and values as `read_yaml_object` reads them."""
    return yaml.dump(dict(fields), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).replace("\n", " ")
    return problem if mark is None else f"{problem} in line {mark.line + 1}, column {mark.column + 1}"
