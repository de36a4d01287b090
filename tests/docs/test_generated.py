"""What is generated for the documentation is complete, or the build ends."""

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from mkdocs.exceptions import PluginError
from pydantic import Field
from pydantic.dataclasses import dataclass

from docs.generated import errors, file_formats, hook, jobs, rooms, settings
from docs.generated.errors import ROOT, TextMissing
from docs.generated.fields import field_table
from formats.checked_fields import CHECKED, Checked


class Known(Exception):
    """What is known | and [bracketed].

    More of it.
    """

    code = "ZOO-E999"
    exit_code = 7


class AlsoKnown(Exception):
    """Another error."""

    code = "ZOO-E999"


class Silent(Exception):
    code = "ZOO-E998"


def test_an_error_is_a_row_with_its_first_sentence() -> None:
    assert errors.rows_of([Known]).splitlines()[-1] == (
        "| `ZOO-E999` | `Known` | 7 | What is known \\| and \\[bracketed]. |"
    )


def test_two_errors_with_one_code_end_the_build() -> None:
    with pytest.raises(TextMissing, match="AlsoKnown and Known both have the code ZOO-E999"):
        errors.rows_of([Known, AlsoKnown])


def test_an_error_without_a_docstring_ends_the_build() -> None:
    with pytest.raises(TextMissing, match=r"Silent has a code and no docstring"):
        errors.rows_of([Silent])


def test_the_errors_of_every_package_are_found() -> None:
    found = {error.__module__.partition(".")[0] for error in errors.error_classes()}
    assert found >= {"registry", "xlora_engine", "workers"}


def test_a_code_that_sources_name_and_no_page_explains_ends_the_build() -> None:
    page = "\n".join(code for code in errors.codes_in_sources() if code != "ZOO-W205")
    with pytest.raises(TextMissing, match="names ZOO-W205"):
        errors.require_documented(page)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class _Told(Checked):
    name: str = Field(description="What it is called.")
    size: int = Field(default=3, ge=1, le=9, description="How large | it is.")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class _Untold(Checked):
    size: int = 3


def test_a_field_is_a_row_with_what_its_declaration_says() -> None:
    assert field_table(_Told).splitlines()[-2:] == [
        "| `name` | text | required | What it is called. |",
        "| `size` | a whole number in 1..9 | `3` | How large \\| it is. |",
    ]


def test_a_field_without_a_description_ends_the_build() -> None:
    with pytest.raises(TextMissing, match=r"_Untold\.size has no description"):
        field_table(_Untold)


def test_a_variable_that_the_code_reads_and_the_table_lacks_ends_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {name: text for name, text in settings.SETTINGS.items() if name != "ZOO_LEASE_S"}
    monkeypatch.setattr(settings, "SETTINGS", known)
    with pytest.raises(TextMissing, match="ZOO_LEASE_S"):
        settings.setting_table()


@pytest.mark.parametrize(
    ("texts", "made"), [("EVENTS", jobs.transition_table), ("MEANINGS", jobs.reason_table)]
)
def test_an_event_or_reason_without_a_text_ends_the_build(
    texts: str, made: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(made)
    monkeypatch.setattr(jobs, texts, {})
    with pytest.raises(TextMissing, match="says nothing of"):
        made()


def test_a_saved_format_without_a_text_ends_the_build() -> None:
    with pytest.raises(TextMissing, match="says nothing of the format 'peft'"):
        file_formats.saved_format_table(
            {name: text for name, text in file_formats.SAVED.items() if name != "peft"}
        )


def test_the_rooms_are_those_on_disk_and_come_after_what_they_import() -> None:
    shown = rooms.rooms()
    assert list(shown) == ["workers", "registry", "xlora_engine", "formats"]
    assert shown["registry"].index("files") < shown["registry"].index("commands")
    for package, inside in shown.items():
        assert set(inside) == {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}


def test_the_drawing_puts_side_by_side_what_does_not_know_each_other() -> None:
    drawn = ElementTree.fromstring(  # noqa: S314 - our own
        rooms.drawing({"workers": ("jobs",), "registry": ("a", "b"), "xlora_engine": ()})
    )
    labels = {text.text: text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    heights = {
        name: int(labels[name].attrib["y"]) for name in ("zoo.py", "workers", "registry", "xlora_engine")
    }
    assert heights["zoo.py"] < heights["workers"] < heights["registry"] == heights["xlora_engine"]
    assert (
        int(labels["a"].attrib["x"]) < int(labels["b"].attrib["x"]) < int(labels["xlora_engine"].attrib["x"])
    )


def test_a_room_without_a_docstring_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    with pytest.raises(TextMissing, match="has no docstring"):
        rooms.text_of(tmp_path)


PAGE = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))


@pytest.mark.parametrize(
    "fetching",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<img alt="x" src="//cdn.example/a.png">',
        '<link rel="stylesheet" href="https://fonts.example/a.css">',
    ],
)
def test_a_page_that_needs_a_network_ends_the_build(fetching: str) -> None:
    with pytest.raises(PluginError, match=r"page\.md fetches from a network"):
        hook.on_post_page(f"<p>{fetching}</p>", page=PAGE)


def test_a_page_may_link_to_other_sites() -> None:
    output = '<a href="https://arxiv.org">paper</a><script src="local.js"></script>'
    assert hook.on_post_page(output, page=PAGE) == output


def test_a_mark_is_replaced_by_what_it_names() -> None:
    filled = hook.on_page_markdown("before\n\n<!-- generated: rooms -->\n\nafter", page=PAGE)
    assert "| `registry/jobs/` |" in filled
    assert "generated:" not in filled
