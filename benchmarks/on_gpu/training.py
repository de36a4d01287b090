"""Training steps beside PEFT's: of a scaling head, and of an adapter."""

import random
from collections.abc import Callable
from statistics import median

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from benchmarks.contenders import Contender, ours, peft_xlora
from benchmarks.measures import timed
from benchmarks.on_gpu.models import RANK, composed, on_disk, random_base, random_experts
from benchmarks.on_gpu.parts import Setting
from benchmarks.on_gpu.rows import Row
from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.head_training.hidden_states import compute_hidden_states
from xlora_engine.model import XLoraModel

_SEQUENCES = 8
_REPETITIONS = 5


def run(setting: Setting, say: Callable[[Row], None]) -> None:
    """The step of a head, hidden states a second, the step of an adapter."""
    base = random_base("1B", setting)
    model = composed(base, random_experts(base, 3, setting))
    subject = on_disk(model, setting.folder)
    examples = _examples(base.config.vocab_size, 32 if setting.quick else 256)
    say(_hidden_states(model, examples, setting))
    model.unload()
    del model
    seconds = {}
    for name, make in {"ours": ours, "peft": peft_xlora}.items():
        contender = make(base, subject)
        seconds[name], peak = _step(contender, examples, setting)
        note = f"{_SEQUENCES} sequences, peak {peak / 2**30:.2f} GiB"
        say(Row(part="", what=f"head step: {name}", value=seconds[name] * 1e3, unit="ms", note=note))
        if name == "ours":
            contender.model.unload()  # type: ignore[operator]
    bar = None if setting.quick else 3.0
    say(Row(part="", what="head step: PEFT / ours", value=seconds["peft"] / seconds["ours"], at_least=bar))
    say(_adapter_step(random_base("1B", setting), examples, setting))


def _examples(vocabulary: int, tokens: int) -> list[EncodedExample]:
    drawn = random.Random(0)
    return [
        EncodedExample(
            token_ids=tuple(drawn.randrange(3, vocabulary) for _ in range(tokens)), prompt_length=tokens // 2
        )
        for _ in range(_SEQUENCES)
    ]


def _step(contender: Contender, examples: list[EncodedExample], setting: Setting) -> tuple[float, int]:
    contender.model.train()
    step = contender.prepare_step(examples)
    step()
    found = [timed(step, setting.device) for _ in range(_REPETITIONS)]
    contender.model.eval()
    return median(one.seconds for one in found), max(one.peak_bytes for one in found)


def _hidden_states(model: XLoraModel, examples: list[EncodedExample], setting: Setting) -> Row:
    def compute() -> None:
        compute_hidden_states(
            model.scaling_pass,
            examples,
            new_cache=lambda: model.new_cache().scaling,
            pad_id=0,
            tokens_per_batch=4096,
            device=setting.device,
        )

    compute()
    tokens = sum(len(example.token_ids) for example in examples)
    rate = tokens / timed(compute, setting.device).seconds
    return Row(part="", what="hidden states", value=rate, unit="tokens/s")


def _adapter_step(base: PreTrainedModel, examples: list[EncodedExample], setting: Setting) -> Row:
    """A plain step of PEFT, as `zoo train` takes it."""
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    batch = collate(examples, pad_id=0).to(setting.device)

    def step() -> None:
        model.zero_grad()
        out = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels[:, -batch.keep :],
            logits_to_keep=batch.keep,
            use_cache=False,
        )
        out.loss.backward()

    step()
    found = [timed(step, setting.device) for _ in range(_REPETITIONS)]
    note = f"{_SEQUENCES} sequences, peak {max(one.peak_bytes for one in found) / 2**30:.2f} GiB"
    value = median(one.seconds for one in found) * 1e3
    return Row(part="", what="adapter step, rank 16, all linear layers", value=value, unit="ms", note=note)
