"""Does the tokenizer beside an adapter differ from its base model's, which is the one that is used? Pure.

Refusal: E276 tokens without an embedding. Warning: W208 another tokenizer or chat template.
"""

from collections.abc import Iterable, Sequence

from formats.strict_json import shown
from registry.intake.compatibility import REFUSE, WARN, CompatibilityResult
from registry.intake.fitting.misfits import NAMED
from registry.intake.tokenizer_files import DEFAULT_TEMPLATE, TokenizerFiles

#: Files that hold a whole vocabulary in a form that is compared byte by byte.
_WHOLE = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def tokenizer_compatibility_of(
    own: TokenizerFiles, base: TokenizerFiles, *, base_name: str, embeddings: int | None
) -> tuple[CompatibilityResult, ...]:
    """What differs between the files beside an adapter and those of its base model; nothing where they agree.

    `embeddings` is how many tokens the base model has an embedding for, None where that is not known.
    """
    without = _without_embedding(own, base, embeddings)
    if without:
        found = f"its tokenizer adds {_counted(without)} that {base_name} has no embedding for"
        remedy = (
            "train it again with the base model's own tokenizer, or register the base model with the"
            " embeddings it was trained with, and the adapter with --base"
        )
        return (
            CompatibilityResult(
                level=REFUSE, code="ZOO-E276", message=f"{found}, which has {embeddings}; {remedy}"
            ),
        )
    return tuple(
        CompatibilityResult(level=WARN, code="ZOO-W208", message=message)
        for message in (*_template(own, base, base_name), *_tokenizer(own, base, base_name))
    )


def _without_embedding(own: TokenizerFiles, base: TokenizerFiles, embeddings: int | None) -> list[str]:
    if embeddings is None:
        return []
    new = own.tokens.keys() - base.tokens.keys()
    return sorted((token for token in new if own.tokens[token] >= embeddings), key=own.tokens.__getitem__)


def _template(own: TokenizerFiles, base: TokenizerFiles, base_name: str) -> Iterable[str]:
    template = own.templates.get(DEFAULT_TEMPLATE)
    if template is not None and template != base.templates.get(DEFAULT_TEMPLATE):
        yield _differs("chat template", base_name, "")


def _tokenizer(own: TokenizerFiles, base: TokenizerFiles, base_name: str) -> Iterable[str]:
    for reason in own.unreadable:
        yield f"a file beside it was not compared with {base_name}'s: {reason}"
    details = [
        *_tokens(own, base),
        *(
            f"{role} is {shown(token)}, not {shown(base.roles.get(role))}"
            for role, token in own.roles.items()
            if token != base.roles.get(role)
        ),
    ]
    if details:
        yield _differs("tokenizer", base_name, f" ({'; '.join(details)})")


def _tokens(own: TokenizerFiles, base: TokenizerFiles) -> Iterable[str]:
    new = {token for token, index in own.tokens.items() if base.tokens.get(token) != index}
    if own.is_whole and base.is_whole:
        changed = new | (base.tokens.keys() - own.tokens.keys())
        if changed:
            yield f"differs in {_counted(sorted(changed))}"
        elif own.merges != base.merges:
            yield "differs in its merges"
    elif base.is_whole and new:
        yield f"differs in {_counted(sorted(new))}"
    elif not base.is_whole:
        held = [name for name in _WHOLE if name in own.digests]
        differing = [name for name in held if own.digests[name] != base.digests.get(name)]
        if differing:
            yield f"differs in {', '.join(differing)}"


def _differs(what: str, base_name: str, details: str) -> str:
    return (
        f"its {what} is not {base_name}'s{details}, which is the one used here, so answers can differ from"
        " those in its training; to use its own, put it into a copy of the base model's folder, register"
        " that under another name, and the adapter with --base"
    )


def _counted(tokens: Sequence[str]) -> str:
    more = ", …" if len(tokens) > NAMED else ""
    noun = "1 token" if len(tokens) == 1 else f"{len(tokens)} tokens"
    return f"{noun} ({', '.join(map(shown, tokens[:NAMED]))}{more})"
