"""X-LoRA (arXiv:2402.07148): a scaling head, trained on labelled data, weighs experts token by token."""

from pathlib import Path

from transformers import PreTrainedModel

from formats.saved_model import HEAD_FILE, TOP_FILES
from registry.entities import StoredMethod
from workers.methods.head_stages import HiddenStatesStage, MixtureStage, WarmStartStage
from workers.methods.mixing import ComposedModel, Making
from workers.methods.training_examples import DrawnExamples, dataset_file, draw_examples
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel
from xlora_engine.saved.formats import read_model
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.base_model import read_limits


class XLora:
    """The experts under a trained head."""

    def make(self, making: Making) -> ComposedModel:
        """Train a head: from hidden states which domain a token is of, then by the language-model loss."""
        model = making.with_experts(XLoraConfig.from_json(making.spec.head))
        examples = _draw(making, model)
        routed = examples.routed(HiddenStatesStage(making, model, examples).run())
        mixture = MixtureStage(making, model, examples, routed)
        # A checkpoint of the second stage holds all that the first one did.
        if mixture.is_new:
            WarmStartStage(making, model, routed).run()
        mixture.run()
        return ComposedModel(model=model)

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


def _draw(making: Making, model: XLoraModel) -> DrawnExamples:
    files = {
        making.parts.domains[domain]: dataset_file(making.context.registry, reference)
        for domain, reference in making.spec.data.items()
    }
    return draw_examples(
        files,
        making.tokenizer,
        count_per_domain=making.spec.samples_per_domain,
        limits=read_limits(model.base.config),
        seed=making.spec.seed,
    )
