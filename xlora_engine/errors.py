"""Everything `xlora_engine` raises on purpose.

EngineError                     ZOO-E300
├── ConfigInvalid               ZOO-E301  a field of a configuration is out of range
├── ExpertInvalid               ZOO-E310  an adapter folder cannot serve as an expert
│   ├── ExpertUnreadable        ZOO-E311
│   ├── ExpertUnsupported       ZOO-E312  DoRA, bias, modules_to_save and the like
│   └── ExpertMismatch          ZOO-E313  does not fit the base model
├── SavedModelInvalid           ZOO-E320  a saved model is damaged or of another kind
│   ├── SavedFileUnreadable    ZOO-E321
│   ├── ExpertChanged           ZOO-E322  an expert's bytes differ from those saved
│   ├── ReloadMismatch           ZOO-E323  the loaded model's logits are not those saved
│   ├── HeadIncomplete          ZOO-E324  layers of the scaling head are in no file (PEFT 0.20 to 0.21.2)
│   ├── PickleRefused           ZOO-E325  weights in a pickle, which runs code when read
│   ├── NotRepresentable        ZOO-E326  a format, or its reader, lacks what the configuration asks
│   ├── ExpertNotFound          ZOO-E327  the folder of an expert is not with the saved model
│   └── SavedModelUnwritable    ZOO-E328  the folder it is to be written to cannot be written
├── CacheUnsupported            ZOO-E330  a key-value cache that cannot hold both passes
├── BaseUnsupported             ZOO-E340  the base model offers no decoder to run the scaling pass on
│   └── BaseUnreadable          ZOO-E341
├── ChatInvalid                 ZOO-E350  a chat example the tokenizer's template cannot encode
│   └── AnswerTooLong           ZOO-E351
├── NoEffect                    ZOO-E360  an adapter that changes nothing
├── ScoreNotFinite              ZOO-E361  an answer whose loss is not finite
├── HubUnavailable              ZOO-E380  the hub does not answer
│   └── HubNotFound             ZOO-E381  the hub has no such repository, revision or folder
├── TrainingDiverged            ZOO-E370  a loss that is not finite
└── TrainingStopped             ZOO-E371  asked to stop; a checkpoint was kept
"""

from formats.errors import InvalidField


class EngineError(Exception):
    """Root of what this package raises; `code` is stable, `exit_code` is what a command ends with."""

    code = "ZOO-E300"
    exit_code = 1
    #: What a job ends for that raises it: `bad_input` where another attempt would end the same.
    reason = "error"


class ConfigInvalid(InvalidField, EngineError):
    """A configuration field is outside its range."""

    code = "ZOO-E301"
    exit_code = 2


class ExpertInvalid(EngineError):
    """An adapter folder cannot serve as an expert."""

    code = "ZOO-E310"
    reason = "bad_input"
    exit_code = 4


class ExpertUnreadable(ExpertInvalid):
    """The adapter's files are missing or damaged."""

    code = "ZOO-E311"


class ExpertUnsupported(ExpertInvalid):
    """The adapter uses a feature that a mixture cannot honour."""

    code = "ZOO-E312"


class ExpertMismatch(ExpertInvalid):
    """The adapter's modules or shapes are not those of the base model."""

    code = "ZOO-E313"


class SavedModelInvalid(EngineError):
    """A saved model cannot be used."""

    code = "ZOO-E320"
    reason = "bad_input"


class SavedFileUnreadable(SavedModelInvalid):
    """A file of a saved model is missing, damaged or of an unknown format."""

    code = "ZOO-E321"


class ExpertChanged(SavedModelInvalid):
    """An expert's bytes are not those that were saved."""

    code = "ZOO-E322"


class ReloadMismatch(SavedModelInvalid):
    """The loaded model fails the reload check: most often it is on another base model."""

    code = "ZOO-E323"
    exit_code = 4


class HeadIncomplete(SavedModelInvalid):
    """Layers of the scaling head were never written, so no reader can find them."""

    code = "ZOO-E324"


class PickleRefused(SavedModelInvalid):
    """Weights in a pickle, which runs code when it is read; the message says how to convert them."""

    code = "ZOO-E325"


class NotRepresentable(SavedModelInvalid):
    """Another format, or the implementation that reads it, has no exact equivalent of a field's value."""

    code = "ZOO-E326"
    exit_code = 4

    def __init__(self, layout: str, field: str, reason: str) -> None:
        super().__init__(f"the {layout} format cannot represent {field}: {reason}")
        self.field = field


class ExpertNotFound(SavedModelInvalid):
    """A saved model names an expert whose files are not with it."""

    code = "ZOO-E327"
    exit_code = 3


class HubUnavailable(EngineError):
    """The hub cannot be reached, or refuses to answer."""

    code = "ZOO-E380"
    exit_code = 6


class HubNotFound(HubUnavailable):
    """The hub has no such repository, revision or folder, or hides it."""

    code = "ZOO-E381"
    exit_code = 3


class SavedModelUnwritable(SavedModelInvalid):
    """The folder a model is to be written to cannot be written; nothing was left there."""

    code = "ZOO-E328"


class CacheUnsupported(EngineError):
    """A key-value cache that cannot hold the keys and values of both passes."""

    code = "ZOO-E330"
    exit_code = 2


class BaseUnsupported(EngineError):
    """The base model offers no decoder whose hidden states could feed the scaling head."""

    code = "ZOO-E340"
    reason = "bad_input"
    exit_code = 4


class BaseUnreadable(BaseUnsupported):
    """The base model's files cannot be read."""

    code = "ZOO-E341"


class ChatInvalid(EngineError):
    """A chat example that the tokenizer's template cannot encode."""

    code = "ZOO-E350"
    reason = "bad_input"


class AnswerTooLong(ChatInvalid):
    """An example longer than the context it must fit in."""

    code = "ZOO-E351"


class NoEffect(EngineError):
    """An adapter with which the logits are those of the base model."""

    code = "ZOO-E360"
    reason = "bad_input"
    exit_code = 4


class ScoreNotFinite(EngineError):
    """The loss of an answer is NaN or infinite, so nothing was measured."""

    code = "ZOO-E361"
    reason = "bad_input"
    exit_code = 4


class TrainingDiverged(EngineError):
    """A training loss became NaN or infinite."""

    code = "ZOO-E370"


class TrainingStopped(EngineError):
    """Training was asked to stop and kept a checkpoint."""

    code = "ZOO-E371"
    exit_code = 130
