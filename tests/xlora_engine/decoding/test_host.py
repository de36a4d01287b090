"""The private names of `transformers` that this package uses exist, and are called as it calls them."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GenerationMixin, PreTrainedModel
from transformers.generation.utils import GENERATION_MODES_MAPPING

from xlora_engine.decoding.decoder import Decoder
from xlora_engine.decoding.frozen import FrozenDecoder
from xlora_engine.decoding.host import PRIVATE_NAMES, PrivateName

ENGINE = Path(__file__).parents[3] / "xlora_engine"

#: Private names of torch's modules, which are used as well.
OF_TORCH = {"_apply", "_cdata", "_forward_hooks"}


def change_in(used: PrivateName) -> str | None:
    """What is no longer as it was, if anything; names the modules to look at."""
    where = f"{used.owner.__name__}.{used.name}, used in {', '.join(used.modules)},"
    if used.use == "attribute":
        set_in_init = getattr(inspect.getattr_static(used.owner, "__init__"), "__code__", None)
        known = {*dir(used.owner), *getattr(used.owner, "__annotations__", {})}
        known |= set(set_in_init.co_names) if set_in_init else set()
        return None if used.name in known else f"{where} is gone"
    method = getattr(used.owner, used.name, None)
    if method is None:
        return f"{where} is gone"
    found = tuple(inspect.signature(method).parameters)[1:]
    expected = used.parameters
    fits = {
        "override": found == expected,
        "call": found[: len(expected)] == expected,
        "keywords": set(expected) <= set(found),
    }[used.use]
    return None if fits else f"{where} takes {found}, not {expected}"


def assert_optional(used: PrivateName) -> None:
    """Parameters of a method that we call without them have defaults."""
    given = set(used.parameters)
    for name, parameter in list(inspect.signature(getattr(used.owner, used.name)).parameters.items())[1:]:
        left_out = name not in given and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert not left_out or parameter.default is not inspect.Parameter.empty, f"{used.name} needs {name}"


@pytest.mark.parametrize("used", PRIVATE_NAMES, ids=lambda used: f"{used.owner.__name__}.{used.name}")
def test_a_private_name_of_transformers_is_as_this_package_uses_it(used: PrivateName) -> None:
    assert change_in(used) is None
    if used.use in ("call", "keywords"):
        assert_optional(used)


@pytest.mark.parametrize("used", PRIVATE_NAMES, ids=lambda used: f"{used.owner.__name__}.{used.name}")
def test_a_changed_name_is_reported_with_the_modules_that_use_it(used: PrivateName) -> None:
    renamed = replace(used, name=f"{used.name}_of_another_release")

    message = change_in(renamed)

    assert message is not None
    assert all(module in message for module in used.modules)
    if used.use != "attribute":
        assert change_in(replace(used, parameters=("of_another_release", *used.parameters))) is not None


def test_generate_still_calls_the_loops_that_are_overridden() -> None:
    loops = {"_sample", "_beam_search", "_assisted_decoding"}

    assert loops <= set(GENERATION_MODES_MAPPING.values())


def private_attributes(path: Path) -> Iterator[str]:
    """Private names that are looked up on something that is not `self`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                yield node.attr


def own_names() -> set[str]:
    """Private names that this package defines itself."""
    found = set()
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found - {name for name in vars(GenerationMixin) if name.startswith("_")}


def test_the_table_names_every_private_name_that_is_used() -> None:
    listed = {used.name for used in PRIVATE_NAMES}
    own = own_names() | OF_TORCH

    looked_up = {name for path in ENGINE.rglob("*.py") for name in private_attributes(path)} - own
    overridden = {
        name
        for decoder in (Decoder, FrozenDecoder)
        for name in vars(decoder)
        if name.startswith("_")
        and not name.endswith("__")
        and (hasattr(GenerationMixin, name) or hasattr(PreTrainedModel, name))
    }

    assert "_prefill" in looked_up
    assert "_sample" in overridden
    assert looked_up | overridden <= listed


@pytest.mark.parametrize("used", PRIVATE_NAMES, ids=lambda used: f"{used.owner.__name__}.{used.name}")
def test_the_modules_that_the_table_names_do_use_the_name(used: PrivateName) -> None:
    for module in used.modules:
        text = (ENGINE / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert used.name in text
