"""The kind of a file beside a model, by its name alone: to keep, to ignore, or never to load."""

import re
from enum import Enum
from fnmatch import fnmatchcase


class FileKind(Enum):
    """What may be done with a file."""

    #: Kept unchanged: a licence, a model card, notes.
    TEXT = "text"
    #: Belongs to the base model or to the training that made the adapter; left where it is.
    BYSTANDER = "bystander"
    #: Loading it may run its author's code.
    PICKLE = "pickle"
    #: Python, which `trust_remote_code` would run.
    CODE = "code"
    UNKNOWN = "unknown"


#: File name patterns, in lower case; the first that matches decides.
_PATTERNS: tuple[tuple[FileKind, tuple[str, ...]], ...] = (
    (
        FileKind.PICKLE,
        (
            "*.bin",
            "*.pt",
            "*.pt2",
            "*.pth",
            "*.ckpt",
            "*.pkl",
            "*.pickle",
            "*.joblib",
            "*.npy",
            "*.npz",
            "*.dill",
        ),
    ),
    (FileKind.CODE, ("*.py", "*.pyc", "*.so", "*.dll", "*.dylib", "*.sh")),
    (
        FileKind.BYSTANDER,
        (
            *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json"),
            *("vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
            *(
                "chat_template.jinja",
                "chat_template.json",
                "preprocessor_config.json",
                "processor_config.json",
            ),
            *("config.json", "generation_config.json", "trainer_state.json", "training_args.json"),
            *(
                "all_results.json",
                "train_results.json",
                "eval_results.json",
                "*.jsonl",
                "*.csv",
                "*.png",
                "*.jpg",
            ),
            *(".gitattributes", ".gitignore", ".ds_store"),
        ),
    ),
    (FileKind.TEXT, ("readme.md", "licen[sc]e*", "notice*", "use_policy*", "citation*", "*.txt", "*.md")),
)

#: Names that all file systems and shells read in the same way; a text file of another name is not kept.
_PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")


def kind_of_name(name: str, *, is_folder: bool = False) -> FileKind:
    """The kind of a file called `name`; folders are never searched."""
    if is_folder:
        return FileKind.BYSTANDER
    lowered = name.lower()
    kind = next(
        (kind for kind, patterns in _PATTERNS if any(fnmatchcase(lowered, pattern) for pattern in patterns)),
        FileKind.UNKNOWN,
    )
    return FileKind.UNKNOWN if kind is FileKind.TEXT and not _PLAIN.fullmatch(name) else kind
