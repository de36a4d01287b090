"""X-LoRA (arXiv:2402.07148): a trained scaling head weighs experts token by token and layer by layer."""

import logging
from pathlib import Path

from transformers import PreTrainedModel

from formats.saved_model import HEAD_FILE, TOP_FILES
from registry.entities import StoredMethod
from workers.methods.expert_labelling import LabellingStage
from workers.methods.head_stages import HiddenStatesStage, MixtureStage, WarmStartStage
from workers.methods.mixing import ComposedModel, Making
from workers.methods.training_examples import (
    DrawnExamples,
    Sources,
    dataset_file,
    draw_examples,
    share_of_bytes,
)
from workers.methods.training_facts import training_facts
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel
from xlora_engine.saved.formats import read_model
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.base_model import read_limits

#: From this share of single bytes on, a text is of a script that the tokenizer does not know.
_MANY_BYTES = 0.25

_log = logging.getLogger(__name__)


class XLora:
    """The experts under a trained head."""

    def make(self, making: Making) -> ComposedModel:
        """Train a head: from hidden states which expert a token needs, then by the language-model loss.

        Raises:
            NoExpertHelps: the experts are of no use on the examples that have no label.
        """
        model = making.with_experts(XLoraConfig.from_json(making.spec.head))
        examples = drawn_for(making, model)
        labels = LabellingStage(making, model, examples).run()
        routed = examples.routed(HiddenStatesStage(making, model, examples).run(), labels)
        mixture = MixtureStage(making, model, examples, routed)
        # A checkpoint of the second stage holds all that the first one did.
        if mixture.is_new:
            WarmStartStage(making, model, routed).run()
        result = mixture.run()
        facts = training_facts(model.head, routed, result, experts=model.config.adapters)
        return ComposedModel(model=model, training=facts)

    def save(self, composed: ComposedModel, folder: Path) -> StoredMethod:
        """Write configuration, head, experts and reload check."""
        composed.model.save_pretrained(folder)
        return StoredMethod(
            name="xlora",
            files=TOP_FILES,
            details={"config": composed.model.config.to_json()},
            weights={"head": HEAD_FILE},
        )

    def load(self, folder: Path, base_model: PreTrainedModel) -> ComposedModel:
        """The model that was saved, which answers its reload check as it did then."""
        return ComposedModel(model=XLoraModel.from_pretrained(folder, base_model))

    def read(self, folder: Path) -> SavedModel:
        """The model that was saved, apart from its base."""
        return read_model(folder)


def drawn_for(making: Making, model: XLoraModel) -> DrawnExamples:
    """The examples of the request, drawn and encoded."""
    registry, spec, domains = making.context.registry, making.spec, making.parts.domains
    sources = Sources(
        labelled={domains[domain]: dataset_file(registry, name) for domain, name in spec.data.items()},
        corpora=[dataset_file(registry, name) for name in spec.corpora],
        domains=domains,
    )
    drawn = draw_examples(
        sources,
        making.tokenizer,
        count_per_domain=spec.samples_per_domain,
        limits=read_limits(model.base.config),
        seed=spec.seed,
        reported=0 if spec.report_datasets else spec.eval_examples,
    )
    in_bytes = share_of_bytes(drawn.encoded, making.tokenizer)
    if in_bytes > _MANY_BYTES:
        _log.warning(
            "%.0f%% of the training data's tokens are single bytes: %s has hardly any token of this language,"
            " and what adapters know of it is hardly comparable",
            100 * in_bytes,
            making.parts.base.name,
        )
    return drawn
