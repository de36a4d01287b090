"""Training an adapter: the loop is the plain one, the base is left alone, a resumed run is the same run."""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from formats.chat_examples import ChatExample
from tests.pico import pico_base_folder, pico_llama, pico_tokenizer
from xlora_engine.adapter_training.callbacks import StepMetrics
from xlora_engine.adapter_training.settings import AdapterTraining
from xlora_engine.adapter_training.train_adapter import TrainedAdapter, train_adapter
from xlora_engine.data.chat import EncodedExample, collate, encode, training_order
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.errors import ConfigInvalid, TrainingDiverged, TrainingStopped
from xlora_engine.sources.adapter_weights import read_expert
from xlora_engine.sources.base_model import load_base

pytestmark = pytest.mark.usefixtures("collect_less")

SETTINGS = AdapterTraining(
    rank=4,
    alpha=8,
    steps=8,
    batch_size=4,
    warmup_steps=2,
    learning_rate=1e-2,
    seed=3,
    weight_decay=0.01,
    inactive_prefix=False,
)
#: With dropout, so that the state of the random numbers matters, and a checkpoint after every step.
DROPPING = replace(SETTINGS, dropout=0.2, inactive_prefix=True, checkpoint_every_s=1e-9)


def overflowing(settings: AdapterTraining) -> AdapterTraining:
    """Settings that no request can have: at this learning rate, any loss overflows."""
    settings = replace(settings)
    object.__setattr__(settings, "learning_rate", 1e35)
    return settings


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return pico_tokenizer()


@pytest.fixture(scope="module")
def examples(tokenizer: PreTrainedTokenizerFast) -> list[EncodedExample]:
    pairs = [(f"{number} plus one" + "?" * (number % 3), str(number + 1)) for number in range(14)]
    return [
        encode(tokenizer, ChatExample(messages=(("user", q), ("assistant", a))), max_tokens=100)
        for q, a in pairs
    ]


def frozen(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    model = pico_llama().requires_grad_(False)
    torch.nn.Module.to(model, dtype)
    return model


class Run:
    """One way to call `train_adapter`; each call goes on in the same folder."""

    def __init__(
        self, tokenizer: Any, examples: list[EncodedExample], folder: Path, dtype: torch.dtype
    ) -> None:
        self.tokenizer, self.examples, self.folder, self.dtype = tokenizer, examples, folder, dtype
        self.steps: list[StepMetrics] = []

    def __call__(self, settings: AdapterTraining = SETTINGS, stop_after: int | None = None) -> TrainedAdapter:
        self.steps = []
        return train_adapter(
            frozen(self.dtype),
            self.tokenizer,
            self.examples,
            settings,
            base_name="pico",
            folder=self.folder,
            on_step=self.steps.append,
            stop=lambda: (
                stop_after is not None and bool(self.steps) and self.steps[-1].step + 1 >= stop_after
            ),
        )

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))


@pytest.fixture
def run(
    tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample], tmp_path: Path
) -> Callable[..., Run]:
    def make(name: str, dtype: torch.dtype = torch.float32) -> Run:
        return Run(tokenizer, examples, tmp_path / name, dtype)

    return make


@pytest.fixture(scope="module")
def undisturbed(
    tokenizer: PreTrainedTokenizerFast,
    examples: list[EncodedExample],
    tmp_path_factory: pytest.TempPathFactory,
) -> TrainedAdapter:
    return Run(tokenizer, examples, tmp_path_factory.mktemp("undisturbed"), torch.float32)(DROPPING)


def weights(trained: TrainedAdapter) -> bytes:
    return (trained.folder / "adapter_model.safetensors").read_bytes()


# ---------------------------------------------------------------------- what comes out


def test_the_weights_are_those_of_a_plain_loop(
    run: Callable[..., Run], examples: list[EncodedExample]
) -> None:
    # Given PEFT and torch alone, with the schedule, clipping and batches that the settings mean
    torch.manual_seed(SETTINGS.seed)
    model = get_peft_model(
        frozen(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.01)
    losses, rates = [], []
    for step, indices in enumerate(training_order(examples, batch_size=4, steps=8, seed=3)):
        warm = step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 6))
        rates.append(1e-2 * warm)
        optimiser.param_groups[0]["lr"] = rates[-1]
        batch = collate([examples[index] for index in indices], pad_id=0)
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    # When the same is trained through the engine
    result = (plain := run("plain"))()
    # Then losses, learning rates and weights agree
    assert result.losses == pytest.approx(losses, abs=1e-5)
    assert [step.loss for step in plain.steps] == list(result.losses)
    assert [step.step for step in plain.steps] == list(range(1, 9))
    assert [step.learning_rate for step in plain.steps] == pytest.approx(rates, abs=1e-9)
    assert result.losses[-1] < 0.9 * result.losses[0]
    assert result.final_loss == result.losses[-1]
    assert result.tokens == sum(
        len(examples[i].token_ids)
        for batch in training_order(examples, batch_size=4, steps=8, seed=3)
        for i in batch
    )
    written = load_file(result.folder / "adapter_model.safetensors")
    assert len(written) == len(trained) == 28
    for name, value in trained.items():
        torch.testing.assert_close(
            written[name.replace(".default", "")], value.detach(), rtol=0, atol=1e-4, msg=name
        )


def test_a_trained_adapter_is_inactive_on_the_shared_prefix_and_nowhere_else(
    run: Callable[..., Run], examples: list[EncodedExample]
) -> None:
    trained = run("inactive")(replace(SETTINGS, inactive_prefix=True))
    # As far as an eighth of the narrowest input has room.
    assert len(shared_prefix(examples)) > (prefix := 4)
    ids = torch.tensor([examples[0].token_ids])
    base = frozen()
    with torch.no_grad():
        plain = base(input_ids=ids).logits[0]
        adapted = PeftModel.from_pretrained(base, str(trained.folder))
        added = (adapted(input_ids=ids).logits[0] - plain).abs().amax(-1)
    assert added[:prefix].max() < 1e-4
    assert added[prefix:].min() > 1e-2
    assert trained.final_loss < trained.losses[0]


def test_the_folder_holds_configuration_and_weights_and_nothing_else(run: Callable[..., Run]) -> None:
    result = run("folder")(replace(SETTINGS, steps=2))
    assert {path.name for path in result.folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "pico"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == sorted(config["target_modules"])
    assert set(config["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert {value.dtype for value in load_file(result.folder / "adapter_model.safetensors").values()} == {
        torch.float32
    }


def test_nothing_written_contains_the_base_models_path(
    tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample], tmp_path: Path
) -> None:
    base_folder = pico_base_folder(tmp_path / "secret-folder")
    base = load_base(base_folder, dtype=torch.float32, device=torch.device("cpu"))
    train_adapter(
        base,
        tokenizer,
        examples,
        replace(SETTINGS, steps=2, checkpoint_every_s=1e-9),
        base_name="pico",
        folder=tmp_path / "run",
    )
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"secret-folder" in path.read_bytes()]


def test_the_adapter_read_back_answers_better_than_the_base(
    run: Callable[..., Run], examples: list[EncodedExample]
) -> None:
    result = run("better")(replace(SETTINGS, steps=20, target_modules=("q_proj", "v_proj", "up_proj")))
    batch = collate(examples, pad_id=0)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
    with torch.no_grad():
        without = float(frozen()(**inputs).loss)
        trained = float(PeftModel.from_pretrained(frozen(), str(result.folder))(**inputs).loss)
    assert trained < 0.8 * without
    expert = read_expert(result.folder, "better")
    assert {path.rpartition(".")[2] for path in expert.updates} == {"q_proj", "v_proj", "up_proj"}


def test_equal_runs_write_equal_bytes_and_other_seeds_other_ones(run: Callable[..., Run]) -> None:
    settings = replace(SETTINGS, steps=3, dropout=0.1)
    first, second = run("first")(settings), run("second")(settings)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert weights(run("third")(replace(settings, seed=4))) != weights(first)


def test_a_steps_metrics_go_to_the_caller_alone(
    run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run("without callbacks")(replace(SETTINGS, steps=2))
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------------- the base is left alone


def state_of(model: LlamaForCausalLM) -> tuple[Any, ...]:
    modules = [(name, type(module), sorted(vars(module))) for name, module in model.named_modules()]
    flags = [(name, value.requires_grad) for name, value in model.named_parameters()]
    return modules, flags, model.training, model.config.to_dict()


@pytest.mark.parametrize("end", ["finished", "stopped", "diverged", "refused"])
def test_the_base_is_left_as_it_was_however_training_ends(
    tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample], tmp_path: Path, end: str
) -> None:
    base = frozen()
    before, state = {name: value.clone() for name, value in base.state_dict().items()}, state_of(base)
    few = replace(SETTINGS, steps=3)
    ends: dict[str, tuple[AbstractContextManager[Any], AdapterTraining]] = {
        "finished": (nullcontext(), few),
        "stopped": (pytest.raises(TrainingStopped), few),
        "diverged": (pytest.raises(TrainingDiverged), overflowing(few)),
        "refused": (pytest.raises(ConfigInvalid), replace(few, target_modules=("q_proj", "w_proj"))),
    }
    outcome, settings = ends[end]
    with outcome:
        train_adapter(
            base,
            tokenizer,
            examples,
            settings,
            base_name="pico",
            folder=tmp_path,
            stop=lambda: end == "stopped",
        )
    assert state_of(base) == state
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


# ---------------------------------------------------------------------- stopping and going on


def test_a_stopped_run_goes_on_to_the_weights_of_an_undisturbed_one(
    run: Callable[..., Run], undisturbed: TrainedAdapter
) -> None:
    # Given a run that is stopped twice
    disturbed = run("disturbed")
    for after in (3, 5):
        with pytest.raises(TrainingStopped, match=f"after step {after} of 8"):
            disturbed(replace(DROPPING, checkpoint_every_s=3600), stop_after=after)
        assert [path.name for path in disturbed.checkpoints][-1] == f"checkpoint-{after}"
        assert not (disturbed.folder / "adapter").exists()
    # When it goes on
    result = disturbed(DROPPING)
    # Then only the rest is trained, and all is as if nothing had happened
    assert [step.step for step in disturbed.steps] == [6, 7, 8]
    assert result.losses == undisturbed.losses
    assert weights(result) == weights(undisturbed)


def test_a_run_on_a_bfloat16_base_goes_on_likewise(run: Callable[..., Run]) -> None:
    settings = replace(SETTINGS, steps=4)
    whole = run("whole", torch.bfloat16)(settings)
    disturbed = run("disturbed", torch.bfloat16)
    with pytest.raises(TrainingStopped):
        disturbed(settings, stop_after=2)
    result = disturbed(settings)
    assert result.losses == whole.losses
    assert weights(result) == weights(whole)


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_small_micro_batches_learn_the_same(run: Callable[..., Run], micro_batch_size: int) -> None:
    # 14 examples in batches of 4: the last batch of an epoch is shorter than the others.
    whole = load_file(run("whole")().folder / "adapter_model.safetensors")
    cut_run = run("cut")
    cut_up = cut_run(replace(SETTINGS, micro_batch_size=micro_batch_size))
    cut = load_file(cut_up.folder / "adapter_model.safetensors")
    assert all(torch.allclose(whole[name], cut[name], atol=1e-5) for name in whole)
    assert [step.step for step in cut_run.steps] == list(range(1, 9))


def test_a_run_goes_on_with_smaller_micro_batches_to_the_same_weights(run: Callable[..., Run]) -> None:
    whole = load_file(run("whole")().folder / "adapter_model.safetensors")
    stopped = run("stopped")
    with pytest.raises(TrainingStopped):
        stopped(SETTINGS, stop_after=3)
    resumed = stopped(replace(SETTINGS, micro_batch_size=2))
    assert stopped.steps[0].step > 1
    found = load_file(resumed.folder / "adapter_model.safetensors")
    assert all(torch.allclose(whole[name], found[name], atol=1e-5) for name in whole)


@pytest.mark.parametrize("damage", ["no manifest", "cut", "other bytes", "file gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    run: Callable[..., Run], undisturbed: TrainedAdapter, damage: str
) -> None:
    disturbed = run("disturbed")
    with pytest.raises(TrainingStopped):
        disturbed(DROPPING, stop_after=5)
    assert [path.name for path in disturbed.checkpoints] == ["checkpoint-4", "checkpoint-5"]
    newest = disturbed.checkpoints[-1]
    if damage == "no manifest":
        (newest / "manifest.json").unlink()
    elif damage == "cut":
        (newest / "trainer_state.json").write_text((newest / "trainer_state.json").read_text()[:100])
    elif damage == "other bytes":
        state = bytearray((newest / "optimizer.pt").read_bytes())
        state[len(state) // 2] ^= 1
        (newest / "optimizer.pt").write_bytes(bytes(state))
    else:
        (newest / "rng_state.pth").unlink()
    result = disturbed(DROPPING)
    assert [step.step for step in disturbed.steps] == [5, 6, 7, 8]
    assert weights(result) == weights(undisturbed)
    assert result.losses == undisturbed.losses


@pytest.mark.parametrize("other", ["settings", "examples"])
def test_a_checkpoint_of_another_run_is_not_gone_on_from(
    run: Callable[..., Run], undisturbed: TrainedAdapter, other: str
) -> None:
    reused = run("reused")
    examples = reused.examples
    reused.examples = examples if other == "settings" else examples[::-1]
    with pytest.raises(TrainingStopped):
        reused(replace(DROPPING, learning_rate=5e-3) if other == "settings" else DROPPING, stop_after=3)
    reused.examples = examples
    result = reused(DROPPING)
    assert [step.step for step in reused.steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert weights(result) == weights(undisturbed)


def test_a_run_that_died_after_its_last_checkpoint_is_finished_from_it(
    run: Callable[..., Run], undisturbed: TrainedAdapter
) -> None:
    again = run("again")
    shutil.copytree(undisturbed.folder.parent / "checkpoints", again.folder / "checkpoints")
    result = again(DROPPING)
    assert again.steps == []
    assert result.losses == undisturbed.losses
    assert weights(result) == weights(undisturbed)


def test_checkpoints_are_made_by_time_and_two_are_kept(
    run: Callable[..., Run], undisturbed: TrainedAdapter
) -> None:
    (seldom := run("seldom"))(replace(SETTINGS, steps=3))
    assert seldom.checkpoints == []
    often = undisturbed.folder.parent / "checkpoints"
    assert {path.name for path in often.iterdir()} == {"checkpoint-7", "checkpoint-8"}
    assert not list(often.rglob("training_args.bin"))


def test_a_stop_at_the_last_step_is_too_late(run: Callable[..., Run]) -> None:
    assert len(run("late")(replace(SETTINGS, steps=3), stop_after=3).losses) == 3


def test_a_loss_that_is_no_number_ends_training_by_name(run: Callable[..., Run]) -> None:
    diverging = run("diverging")
    with pytest.raises(TrainingDiverged, match=r"the loss of step \d is (nan|inf); lower the learning rate"):
        diverging(overflowing(replace(SETTINGS, warmup_steps=0, checkpoint_every_s=1e-9)))
    assert not (diverging.folder / "adapter").exists()
    assert all(math.isfinite(step.loss) for step in diverging.steps)


# ---------------------------------------------------------------------- what is refused


def test_training_on_no_examples_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="examples"):
        train_adapter(frozen(), tokenizer, [], SETTINGS, base_name="pico", folder=tmp_path)


def test_a_target_module_the_base_does_not_have_is_refused_by_name(run: Callable[..., Run]) -> None:
    with pytest.raises(ConfigInvalid, match=r"target_modules .*'w_proj'"):
        run("targets")(replace(SETTINGS, target_modules=("q_proj", "w_proj")))
    one = run("one")(replace(SETTINGS, steps=2, target_modules=("layers.1.self_attn.q_proj",)))
    assert list(read_expert(one.folder, "one").updates) == ["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("steps", 0),
        ("batch_size", 0),
        ("micro_batch_size", 0),
        ("alpha", 0.0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("gradient_norm", -1.0),
        ("checkpoint_every_s", 0.0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("warmup_steps", 9),
        ("target_modules", ()),
    ],
)
def test_settings_out_of_range_are_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigInvalid, match=field):
        replace(SETTINGS, **{field: value})
