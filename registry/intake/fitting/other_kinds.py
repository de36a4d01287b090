"""Of what kind of model an adapter is, by the names of its modules, where it is none that writes text."""

import re
from collections.abc import Iterable

from formats.module_names import place_independent

_BLOCKS = "down_blocks|up_blocks|mid_block|single_transformer_blocks|transformer_blocks"

_ALLOWED = "only adapters of causal language models can be experts"

#: A name -> what the adapter is of.
_KINDS = (
    (
        re.compile(r"(?:^|\.)(?:score|classifier|classification_head)(?:\.|$)"),
        "a classifier, which gives labels",
    ),
    (
        re.compile(rf"(?:^|[._])(?:{_BLOCKS})(?:[._]|$)|^(?:lora_)?(?:unet|te\d?|text_encoder(?:_\d)?)[._]"),
        "a diffusion model, which makes pictures",
    ),
    (
        re.compile(r"^(?:encoder|decoder)\.block\.\d+\.layer\.|^encoder\.layers?\.\d+\.|^shared$"),
        "an encoder or encoder-decoder such as T5, BART or Whisper, whose encoder a mixture cannot run",
    ),
    (
        re.compile(r"^(?:bert|roberta|deberta|distilbert|electra|esm|vit|clip|transformer\.layer)\."),
        "an encoder such as BERT, which gives vectors",
    ),
)


def other_kind(paths: Iterable[str]) -> str | None:
    """What the adapter is of, with the name that says so; None where it may be of a causal language model."""
    bare = {place_independent(path): path for path in paths}
    for pattern, kind in _KINDS:
        found = next((path for rest, path in sorted(bare.items()) if pattern.search(rest)), None)
        if found is not None:
            return (
                f"the adapter is of {kind}: it changes {found}; only causal language models can be composed"
            )
    return None
