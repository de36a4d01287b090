"""What the files of a tokenizer say: its tokens, its chat templates, the tokens that begin and end a text.

Foreign files are read here by parsers of our own; nothing is loaded.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from formats.strict_json import parse_object

VOCABULARY_FILE = "tokenizer.json"
TOKENIZER_FILES = (
    *(VOCABULARY_FILE, "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json"),
)
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
#: All that decides how a conversation becomes tokens.
NAMES = (*TOKENIZER_FILES, TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE)
#: The template that transformers takes where several have names.
DEFAULT_TEMPLATE = "default"
#: Gemma's tokenizer.json has 33 MB.
LIMIT_BYTES = 256 * 1024 * 1024

_ROLES = ("bos_token", "eos_token")


class UnreadableFile(ValueError):
    """A file of a tokenizer that does not hold what its name says."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer as its files describe it; without files all is empty."""

    #: File name -> `sha256:<hex>`.
    digests: Mapping[str, str] = field(default_factory=dict)
    #: Token -> id, of the vocabulary and of what was added to it.
    tokens: Mapping[str, int] = field(default_factory=dict)
    merges: tuple[str, ...] = ()
    #: Name -> text, without what Jinja takes off its end.
    templates: Mapping[str, str] = field(default_factory=dict)
    #: "bos_token" or "eos_token" -> the token, where it is stated.
    roles: Mapping[str, str] = field(default_factory=dict)
    #: Why a file was not read.
    unreadable: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all tokens are known, not only those that were added."""
        return VOCABULARY_FILE in self.digests and not self.unreadable


def read_tokenizer(names: Iterable[str], read: Callable[[str], bytes]) -> TokenizerFiles:
    """What those of the files say that are a tokenizer's; `read` may raise UnreadableFile."""
    contents: dict[str, bytes] = {}
    unreadable: list[str] = []
    for name in sorted(set(names).intersection(NAMES)):
        try:
            contents[name] = read(name)
        except UnreadableFile as refused:
            unreadable.append(str(refused))

    def parsed(name: str) -> dict[str, Any]:
        try:
            return parse_object(contents[name], what=name, refusal=UnreadableFile) if name in contents else {}
        except UnreadableFile as refused:
            unreadable.append(str(refused))
            return {}

    vocabulary, config = parsed(VOCABULARY_FILE), parsed(TOKENIZER_CONFIG_FILE)
    added, special = parsed("added_tokens.json"), parsed("special_tokens_map.json")
    try:
        templates = _templates(contents.get(CHAT_TEMPLATE_FILE), config.get("chat_template"))
    except UnicodeDecodeError:
        unreadable.append(f"{CHAT_TEMPLATE_FILE} is not UTF-8")
        templates = {}
    return TokenizerFiles(
        digests={name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in contents.items()},
        tokens=_added(added, config) | token_ids(vocabulary),
        merges=_merges(vocabulary),
        templates=templates,
        roles=_roles(special) | _roles(config),
        unreadable=tuple(unreadable),
    )


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id, of a tokenizer.json's vocabulary and of what was added to it."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    ids: dict[str, int] = {}
    if isinstance(vocabulary, Mapping):
        ids |= {token: index for token, index in vocabulary.items() if isinstance(index, int)}
    elif isinstance(vocabulary, list):  # of a unigram model: pairs of token and score, by id
        ids |= {
            str(pair[0]): index for index, pair in enumerate(vocabulary) if isinstance(pair, list) and pair
        }
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), int):
            ids[str(entry.get("content"))] = entry["id"]
    return ids


def _added(added: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, int]:
    ids = {token: index for token, index in added.items() if isinstance(index, int)}
    decoder = config.get("added_tokens_decoder")
    for index, entry in decoder.items() if isinstance(decoder, Mapping) else ():
        if index.isdecimal() and isinstance(entry, Mapping):
            ids[str(entry.get("content"))] = int(index)
    return ids


def _merges(tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """Merges, which releases of tokenizers write as a text or as a pair."""
    model = tokenizer.get("model")
    merges = model.get("merges") if isinstance(model, Mapping) else None
    if not isinstance(merges, list):
        return ()
    return tuple(" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges)


def templates_of(stated: Any) -> dict[str, str]:
    """Name -> text, of what a configuration states as its chat template: a text, a mapping or a list."""
    if isinstance(stated, str):
        named: Mapping[str, Any] = {DEFAULT_TEMPLATE: stated}
    elif isinstance(stated, Mapping):
        named = stated
    else:
        entries = stated if isinstance(stated, list) else []
        named = {str(e.get("name")): e.get("template") for e in entries if isinstance(e, Mapping)}
    return {name: text for name, text in named.items() if isinstance(text, str) and text}


def _templates(file: bytes | None, stated: Any) -> dict[str, str]:
    named = templates_of(stated if file is None else file.decode("utf-8"))
    return {name: text.replace("\r\n", "\n").removesuffix("\n") for name, text in named.items()}


def _roles(stated: Mapping[str, Any]) -> dict[str, str]:
    found = {role: stated.get(role) for role in _ROLES}
    texts = {role: tok.get("content") if isinstance(tok, Mapping) else tok for role, tok in found.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str)}
