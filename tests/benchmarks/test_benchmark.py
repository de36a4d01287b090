"""The benchmark runs on any base model and composition, and its arithmetic is right."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.contenders import CONTENDERS
from benchmarks.memory import cache_bytes, model_bytes
from benchmarks.process import serve
from benchmarks.prompts import all_labelled, answers_labelled
from benchmarks.ratios import Sample, summarise, table
from benchmarks.subject import EXAMPLES, Subject, domain_examples
from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_base_folder, pico_llama, pico_tokenizer
from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.mixture.cache import XLoraCache
from xlora_engine.model import XLoraModel


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A pico base model, three experts and an untrained head."""
    root = tmp_path_factory.mktemp("subject")
    experts = {
        name: pico_adapter(root / name, seed=seed, rank=2, target_modules=ALL_PROJECTIONS)
        for seed, name in enumerate(("bio", "protein", "materials"))
    }
    config = XLoraConfig(layerwise_scalings=True, xlora_depth=2, xlora_size=8, scaling_pass_value=1 / 3)
    XLoraModel.from_adapters(pico_llama(), experts, config).save_pretrained(root / "composition")
    made = Subject(base=pico_base_folder(root / "base"), experts=experts, composition=root / "composition")
    made.write(root / "subject.json")
    return Subject.read(root / "subject.json")


@pytest.mark.parametrize("contender", CONTENDERS)
def test_every_contender_does_every_task(
    contender: str, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        {"task": task, "repetition": 0, "new_tokens": 2, "fresh": True}
        for task in ("generate, batch 1", "score", "training step")
    ]
    lines = io.StringIO("\n".join(json.dumps(task) for task in tasks))

    serve(contender, subject, device_name="cpu", threads=torch.get_num_threads(), tasks=lines)

    load, generated, scored, trained = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    for found in (load, generated, scored, trained):
        assert found["seconds"] > 0
        assert found["peak_bytes"] > 0
        assert found["idle_bytes"] > 0
    assert (generated["tensor_bytes"] > scored["tensor_bytes"]) == (contender != "peft"), "a cache is kept"


@pytest.mark.parametrize("labelled", [all_labelled, answers_labelled])
def test_a_training_step_is_of_the_same_loss_for_peft_and_the_engine(
    subject: Subject, labelled: Callable[..., list[EncodedExample]]
) -> None:
    examples = labelled(pico_tokenizer(), batch_size=3, tokens=96, start=0)

    def loss_of(name: str) -> object:
        return CONTENDERS[name](pico_llama(), subject).prepare_step(examples)()

    assert [len(example.token_ids) for example in examples] == [96, 96, 96]
    torch.testing.assert_close(loss_of("ours"), loss_of("peft"), rtol=1e-4, atol=1e-4)


def test_the_bases_step_goes_back_to_its_input_from_its_own_loss(subject: Subject) -> None:
    examples = answers_labelled(pico_tokenizer(), batch_size=2, tokens=96, start=0)
    base = pico_llama().requires_grad_(requires_grad=False)
    passed_back: list[torch.Tensor] = []
    first = base.model.layers[0]
    first.register_full_backward_hook(lambda _module, grads, _out: passed_back.extend(grads))

    loss = CONTENDERS["base"](base, subject).prepare_step(examples)()

    batch = collate(examples, pad_id=0)
    whole = base(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-4, atol=1e-4)
    assert [bool(gradient.any()) for gradient in passed_back] == [True]


def test_only_the_last_answer_is_a_label() -> None:
    [example] = answers_labelled(pico_tokenizer(), batch_size=1, tokens=96, start=0)

    answer = json.loads((EXAMPLES / "bio.eval.jsonl").read_text().splitlines()[-1])["messages"][-1]["content"]

    assert pico_tokenizer().decode(list(example.answer_ids), skip_special_tokens=True) == answer


def test_examples_of_a_training_step_have_the_shared_prefix_of_training() -> None:
    tokenizer = pico_tokenizer()
    prefixes = [
        shared_prefix(answers_labelled(tokenizer, batch_size=4, tokens=96, start=start)) for start in (0, 1)
    ]
    trained_on = [example for domain in domain_examples(tokenizer, "train").values() for example in domain]

    assert prefixes[0][: len(shared_prefix(trained_on))] == shared_prefix(trained_on) != ()
    assert prefixes[0] == prefixes[1]


def test_a_models_bytes_count_shared_tensors_once_and_a_caches_those_of_both_passes() -> None:
    first, second = (torch.nn.Linear(4, 4, bias=False) for _ in range(2))
    second.weight = torch.nn.Parameter(first.weight.detach())
    model = pico_llama()
    ids = torch.arange(5)[None]

    out = model(ids, use_cache=True)
    both = XLoraCache(out.past_key_values, model(ids, use_cache=True).past_key_values)

    assert model_bytes(torch.nn.ModuleList([first, second])) == 64
    # layers x (keys and values) x heads x tokens x width of a head x bytes
    assert cache_bytes(out) == 2 * 2 * 2 * 5 * 8 * 4
    assert cache_bytes(SimpleNamespace(past_key_values=both)) == 2 * cache_bytes(out)
    assert cache_bytes(torch.zeros(1)) == 0


def test_peft_and_the_engine_are_given_the_same_model(subject: Subject) -> None:
    ids = torch.randint(3, 250, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (
            CONTENDERS[name](pico_llama(), subject).score(ids).logits  # type: ignore[attr-defined]
            for name in ("ours", "peft")
        )

    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-3)


def sample(seconds: float, cpu_seconds: float, peak_mib: float) -> Sample:
    return Sample(seconds=seconds, cpu_seconds=cpu_seconds, peak_mib=peak_mib, tensors_mib=80.0)


def test_medians_are_compared_with_the_first_contenders() -> None:
    results = summarise(
        {
            ("score", "base"): [sample(2.0, 1.0, 100.0), sample(4.0, 2.0, 100.0), sample(3.0, 3.0, 100.0)],
            ("score", "ours"): [sample(6.0, 3.0, 150.0)],
        }
    )

    rows = table(results).splitlines()[2:]

    assert rows == [
        "| score | base | 3.00 | 1.00 | 1.00 | 80 | 100 (1.25 x) | 3 |",
        "| score | ours | 6.00 | 2.00 | 1.50 | 80 | 150 (1.88 x) | 1 |",
    ]


def test_a_subject_is_read_from_a_file_written_by_hand(tmp_path: Path) -> None:
    fields = {"base": "b", "experts": {"bio": "e"}, "composition": "c"}
    (tmp_path / "subject.json").write_text(json.dumps(fields))

    assert Subject.read(tmp_path / "subject.json") == Subject(
        base=Path("b"), experts={"bio": Path("e")}, composition=Path("c")
    )
