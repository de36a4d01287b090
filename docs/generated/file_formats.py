"""Tables of what the code reads and writes, and of what it is proven on or refuses."""

from collections.abc import Mapping
from dataclasses import dataclass

from docs.generated.errors import TextMissing
from docs.generated.markdown import table
from formats.refused_features import REFUSED_FEATURES
from workers.requests.exports import ADAPTER_EXPORTS
from workers.requests.methods import METHODS
from xlora_engine.saved.formats import EXPORTED, FORMATS
from xlora_engine.saved.mistralrs_format import LOADED
from xlora_engine.sources.architectures import PROVEN


@dataclass(frozen=True, kw_only=True)
class SavedFormat:
    """What users must know of a saved model's format."""

    of: str
    marked_by: str
    read: str
    cannot_express: str = ""


SAVED: Mapping[str, SavedFormat] = {
    "zoo": SavedFormat(of="this engine", marked_by="`xlora.json`", read="always"),
    "mistralrs": SavedFormat(
        of="[mistral.rs](https://github.com/EricLBuehler/mistral.rs); tried with 0.9.5",
        marked_by="`xlora_config.json` and `*ordering*.json`",
        read="with its own defaults",
        cannot_express="experts with different modules; ranks by module; names within names; softmax over the"
        " top k; heads with inner layers wider than the base model; other bases than"
        f" {', '.join(sorted(LOADED))}",
    ),
    "xlora": SavedFormat(
        of="the original [xlora](https://github.com/EricLBuehler/xlora), `lamm-mit/x-lora`,"
        " `lamm-mit/x-lora-gemma-7b`",
        marked_by="`xlora_config.json`",
        read="heads with and without ReLU, experts as a list or a mapping, old files",
        cannot_express="softmax over the top k; top k with a scaling pass value",
    ),
    "peft": SavedFormat(
        of="PEFT; written for PEFT 0.21.2 to load from the same path",
        marked_by="`adapter_config.json` of type `XLORA`",
        read="all versions; heads that PEFT 0.20 to 0.21.2 damaged are refused",
        cannot_express="linear heads of several layers; modules outside `model.`; top k with a scaling pass"
        " value or a temperature",
    ),
}


def saved_format_table(texts: Mapping[str, SavedFormat] = SAVED) -> str:
    """Every format of a saved model: how it is recognised, read and written, and what it cannot express.

    Raises:
        TextMissing: a format has no text.
    """
    for name in FORMATS:
        if name not in texts:
            raise TextMissing(f"docs/generated/file_formats.py says nothing of the format {name!r}")
    known = {name: texts[name] for name in FORMATS}
    files = [(f"`{name}`", text.of, text.marked_by, _written(name)) for name, text in known.items()]
    limits = [(f"`{name}`", text.read, text.cannot_express or "–") for name, text in known.items()]
    return "\n\n".join(
        [
            table(("Name", "Of", "Recognised by", "Written by"), files),
            table(("Name", "Read", "Cannot express"), limits),
        ]
    )


def _written(name: str) -> str:
    return f'`export(path, "{name}")`' if name in EXPORTED else "`save_pretrained(path)`"


def adapter_export_table() -> str:
    """Every form in which an adapter is exported, and whether the base model's weights are part of it."""
    rows = [
        (f"`{name}`", row.summary, "yes" if row.with_weights else "no")
        for name, row in ADAPTER_EXPORTS.items()
    ]
    return table(("Format", "What is written", "With the base model's weights"), rows)


def refused_feature_table() -> str:
    """Every field of PEFT's configuration that is refused, and why."""
    return table(("Field", "Why it is refused"), [(f"`{row.field}`", row.reason) for row in REFUSED_FEATURES])


def method_table() -> str:
    """Every method that mixes experts: what it does, whether it needs data, and what it is exported to."""
    rows = [
        (f"`{name}`", row.summary, "yes" if row.needs_data else "no", ", ".join(row.exports))
        for name, row in METHODS.items()
    ]
    return table(("Method", "What it does", "Needs data", "Exports"), rows)


def architecture_list() -> str:
    """The classes of base models that tests prove, as one sentence."""
    return ", ".join(f"`{name}`" for name in sorted(PROVEN)) + "."
