"""The gates of experts, kept in `ZOO_HOME` under the digests of all that they were trained from."""

import secrets
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from workers.methods.kept_passes import digest_of, expert_digest
from workers.methods.mixing import Making
from workers.methods.training_examples import dataset_file, digest_of_tokens, encode_sample
from xlora_engine.data.chat import pad_token
from xlora_engine.gate_training.expert_gate import Gate, train_gate
from xlora_engine.gate_training.settings import GateTraining
from xlora_engine.sources.adapter_weights import Expert
from xlora_engine.sources.base_model import read_limits


def kept_gate(making: Making, base: PreTrainedModel, expert: Expert, domain: str) -> Gate:
    """The gate of an expert, from an earlier composition, or trained on the data of its domain and kept.

    Raises:
        ChatInvalid: an example cannot be read.
        TrainingStopped: the job is to stop.
    """
    spec, context = making.spec, making.context
    examples = encode_sample(
        dataset_file(context.registry, spec.data[domain]),
        making.tokenizer,
        count=spec.samples_per_domain,
        limits=read_limits(base.config),
        seed=spec.seed,
    )
    settings = GateTraining(steps=spec.gate_steps, seed=spec.seed)
    (record,) = (each for each in making.parts.adapters if each.name == expert.name)
    facts = [expert_digest(making.parts.base, record, {}), digest_of_tokens(examples), asdict(settings)]
    path = context.registry.settings.home / "cache" / "gates" / f"{digest_of(facts)}.safetensors"
    if path.exists():
        context.report(f"gate of {expert.name}", settings.steps, settings.steps)
        return load_file(path)
    gate = train_gate(
        base,
        expert,
        examples,
        settings,
        pad_id=pad_token(making.tokenizer),
        on_step=lambda step, loss: context.report(f"gate of {expert.name}", step, settings.steps, loss=loss),
        stop=context.stop_requested,
    )
    _keep(gate, path)
    return gate


def _keep(gate: Gate, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.partial")
    try:
        save_file(gate, staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
