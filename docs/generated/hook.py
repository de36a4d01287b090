"""A hook of MkDocs: fills in what is generated, and refuses pages that need a network.

A comment `<!-- generated: NAME -->` on a line of its own is replaced by the row NAME of `GENERATED`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs.generated import data_formats, errors, file_formats, jobs, rooms, settings
from docs.generated.errors import ROOT, TextMissing
from docs.generated.fields import field_table
from workers.requests.generation import GenerateRequest
from workers.requests.specs import ComposeSpec, EvalSpec, TrainSpec
from xlora_engine.config import XLoraConfig

GENERATED: Mapping[str, Callable[[], str]] = {
    "errors": errors.error_table,
    "rooms": rooms.room_table,
    "settings": settings.setting_table,
    "transitions": jobs.transition_table,
    "reasons": jobs.reason_table,
    "saved-formats": file_formats.saved_format_table,
    "adapter-exports": file_formats.adapter_export_table,
    "methods": file_formats.method_table,
    "data-containers": data_formats.container_table,
    "data-shapes": data_formats.shape_table,
    "refused-data": data_formats.refused_data_table,
    "refused-features": file_formats.refused_feature_table,
    "architectures": file_formats.architecture_list,
    "xlora-config": lambda: field_table(XLoraConfig),
    "train-request": lambda: field_table(TrainSpec),
    "eval-request": lambda: field_table(EvalSpec),
    "generate-request": lambda: field_table(GenerateRequest),
    "compose-request": lambda: field_table(ComposeSpec),
}

#: Page of the site -> the file of the repository that it shows.
BORROWED = {
    "reference/changes.md": "CHANGELOG.md",
    "pictures/scores.png": "examples/report/scores.png",
    "pictures/layers.png": "examples/report/layers.png",
    "pictures/tokens.png": "examples/report/tokens.png",
}

_MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", flags=re.MULTILINE)
#: What a browser fetches by itself; links to follow are not among it.
_FETCHED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\brel=\"(?:stylesheet|preconnect|icon)\"[^>]*\bhref=\"(?:https?:)?//"
)


def on_files(files: Files, config: Any) -> Files:
    """Add what lies elsewhere in the repository, and the drawing of the rooms."""
    for name, source in BORROWED.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "pictures/rooms.svg", content=rooms.drawing(rooms.rooms())))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace every mark; a page of codes must then explain them all."""
    try:
        filled = _MARK.sub(lambda mark: GENERATED[mark[1]](), markdown)
        if page.file.src_uri == "reference/errors.md":
            errors.require_documented(filled)
    except TextMissing as error:
        raise PluginError(str(error)) from error
    return filled


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Refuse a page for which a browser would ask another server."""
    fetched = _FETCHED.search(output)
    if fetched:
        raise PluginError(f"{page.file.src_uri} fetches from a network: {fetched[0]}")
    return output
