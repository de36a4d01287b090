"""Answers are those of transformers itself: of a base model, of an adapter in PEFT, of a composition."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from registry.entities import ExpertRecord
from registry.service import Registry
from registry.settings import Settings
from tests.command_line import Ask
from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_base_folder, pico_llama, pico_tokenizer
from tests.registry.folders import XLORA
from tests.xlora_engine.peft_reference import quiet_peft
from workers.jobs.generation import generate
from workers.requests.generation import GenerateRequest
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel

QUESTION = "Why?"
NEW_TOKENS = 12
SUBJECTS = ("pico", "bio", "science")

#: Options of the command, and the same for `generate` of transformers.
WAYS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "greedy": ([], {"do_sample": False}),
    "beams": (["--num-beams", "3"], {"num_beams": 3, "do_sample": False}),
    "returned beams": (
        ["--num-beams", "4", "--num-return-sequences", "3"],
        {"num_beams": 4, "num_return_sequences": 3, "do_sample": False},
    ),
    "penalty": (["--repetition-penalty", "1.7"], {"repetition_penalty": 1.7, "do_sample": False}),
    "sampling": (["--temperature", "1.5"], {"do_sample": True, "temperature": 1.5, "top_k": 0}),
    "top k": (["--temperature", "1.5", "--top-k", "3"], {"do_sample": True, "temperature": 1.5, "top_k": 3}),
    "top p": (
        ["--temperature", "1.5", "--top-p", "0.4"],
        {"do_sample": True, "temperature": 1.5, "top_k": 0, "top_p": 0.4},
    ),
    "min p": (
        ["--temperature", "1.5", "--min-p", "0.3"],
        {"do_sample": True, "temperature": 1.5, "top_k": 0, "min_p": 0.3},
    ),
    "several samples": (
        ["--temperature", "1", "--num-return-sequences", "3"],
        {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": 3},
    ),
}


@pytest.fixture(scope="module")
def stocked_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pico`, `bio` and `protein` on it, and `science` of both."""
    root = tmp_path_factory.mktemp("asking")
    pico_base_folder(root / "pico")
    folders = {
        name: pico_adapter(root / name, seed=seed, target_modules=ALL_PROJECTIONS)
        for seed, name in enumerate(("bio", "protein"))
    }
    model = XLoraModel.from_adapters(pico_llama(), folders, XLoraConfig(layerwise_scalings=True))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(4)
    model.save_pretrained(root / "science")
    with Registry.open(Settings.from_env({"ZOO_HOME": str(root / "home")})) as registry:
        base = registry.bases.register(root / "pico", name="pico", source="here")
        experts = []
        for position, name in enumerate(folders):
            version = registry.adapters.register(folders[name], name=name)
            experts.append(
                ExpertRecord(
                    position=position,
                    name=name,
                    adapter_reference=version.reference,
                    weights_digest=version.weights_digest,
                )
            )
        registry.compositions.register(
            root / "science",
            name="science",
            base_digest=base.digest,
            experts=experts,
            method=XLORA,
            report={},
        )
    return root


@pytest.fixture
def home(stocked_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What these tests ask is read and not changed, so that they share it."""
    monkeypatch.setenv("ZOO_HOME", str(stocked_home / "home"))
    # As transformers and PEFT compute here; some machines are faster in bfloat16, and draw other tokens.
    monkeypatch.setenv("ZOO_COMPUTE_DTYPE", "float32")
    return stocked_home


def prompt_of(question: str = QUESTION) -> Tensor:
    said = [{"role": "user", "content": question}]
    text = pico_tokenizer().apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    ids = pico_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([ids])


def elsewhere(subject: str, folder: Path, **asked: Any) -> Tensor:
    """What another program, or this engine without any cache, generates after the question."""
    base: Any = AutoModelForCausalLM.from_pretrained(folder / "pico")
    if subject == "bio":
        with quiet_peft():
            base = peft.PeftModel.from_pretrained(base, folder / "bio")
    if subject == "science":
        base = XLoraModel.from_pretrained(folder / "science", base)
        asked["use_cache"] = False
    prompt = prompt_of()
    torch.manual_seed(0)
    ids: Tensor = base.eval().generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), **{"max_new_tokens": NEW_TOKENS, **asked}
    )
    return ids[:, prompt.shape[1] :]


def texts(ids: Tensor) -> list[str]:
    return [str(pico_tokenizer().decode(each.tolist(), skip_special_tokens=True)).strip() for each in ids]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_answers_are_those_of_transformers(subject: str, way: str, home: Path, ask: Ask) -> None:
    options, asked = WAYS[way]
    answer = ask("generate", subject, QUESTION, "--max-new-tokens", str(NEW_TOKENS), "--json", *options)

    assert (answer.code, answer.err) == (0, "")
    assert [given["text"] for given in answer.json] == texts(elsewhere(subject, home, **asked))
    assert [given["choice"] for given in answer.json] == list(range(len(answer.json)))


def test_what_is_drawn_is_drawn_from_all_tokens_unless_a_filter_is_asked_for(home: Path, ask: Ask) -> None:
    hot = ["--temperature", "100", "--max-new-tokens", str(NEW_TOKENS), "--json"]
    unfiltered = {"do_sample": True, "temperature": 100.0}
    assert texts(elsewhere("pico", home, top_k=0, **unfiltered)) != texts(
        elsewhere("pico", home, **unfiltered)
    ), "the default of transformers, 50, must have an effect"
    assert (
        ask("generate", "pico", QUESTION, *hot).json[0]["text"]
        == (texts(elsewhere("pico", home, top_k=0, **unfiltered))[0])
    )


def test_an_answer_that_ends_before_others_to_its_question_is_counted_without_padding(
    home: Path, ask: Ask
) -> None:
    several: dict[str, Any] = {"temperature": 50.0, "num_return_sequences": 12, "max_new_tokens": 100}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in several.items()]
    given = ask("generate", "pico", QUESTION, "--json", *options).json

    end = pico_tokenizer().eos_token_id
    tokens = [each.tolist() for each in elsewhere("pico", home, do_sample=True, top_k=0, **several)]
    lengths = [each.index(end) + 1 if end in each else len(each) for each in tokens]
    assert min(lengths) < max(lengths), "some must end before others"
    assert [answer["new_tokens"] for answer in given] == lengths
    reasons = ["stop" if end in each else "length" for each in tokens]
    assert [answer["finish_reason"] for answer in given] == reasons


# ---------------------------------------------------------------- stop texts


@pytest.mark.parametrize("subject", SUBJECTS)
def test_an_answer_ends_before_a_stop_text_and_says_so(subject: str, home: Path, ask: Ask) -> None:
    asked = ("generate", subject, QUESTION, "--max-new-tokens", "24", "--json")
    whole = ask(*asked).json[0]
    stop = whole["text"][3:5]
    until = whole["text"][: whole["text"].index(stop)]

    stopped = ask(*asked, "--stop", "never said here", "--stop", stop).json[0]

    assert (len(stop), stopped["text"]) == (2, until.strip())
    assert stopped["new_tokens"] < whole["new_tokens"]
    assert stopped["finish_reason"] == "stop"
    few = ask("generate", subject, QUESTION, "--max-new-tokens", "3", "--json").json[0]
    assert (few["new_tokens"], few["finish_reason"]) == (3, "length")


def test_a_stop_text_that_the_prompt_begins_ends_nothing(home: Path, ask: Ask) -> None:
    asked = ("generate", "pico", QUESTION, "--max-new-tokens", "6", "--json")
    whole = ask(*asked).json[0]
    # The chat template ends the prompt with a newline.
    assert ask(*asked, "--stop", f"\n{whole['text'][0]}").json[0] == whole


# ---------------------------------------------------------------- streaming


@pytest.mark.parametrize("subject", SUBJECTS)
def test_pieces_of_a_stream_are_the_answer(subject: str, home: Path, ask: Ask) -> None:
    asked = ("generate", subject, QUESTION, "--max-new-tokens", "100", "--temperature", "50")
    whole = ask(*asked, "--json").json[0]
    stop = whole["text"][-3:]

    streamed = ask(*asked, "--stream", "--json", "--stop", stop)
    lines = [json.loads(line) for line in streamed.out.splitlines()]
    pieces = [line["text"] for line in lines[:-1]]

    assert "".join(pieces).strip() == whole["text"][: whole["text"].index(stop)].strip()
    assert len(pieces) > 1
    assert lines[-1]["answer"]["text"] == "".join(pieces).strip()
    plain = ask(*asked, "--stream", "--stop", stop)
    assert plain.out == "".join(pieces) + "\n"


# ---------------------------------------------------------------- routing


def test_routing_is_how_the_head_weighed_the_experts_when_each_token_was_chosen(home: Path, ask: Ask) -> None:
    answer = ask("generate", "science", QUESTION, "--max-new-tokens", str(NEW_TOKENS), "--json").json[0]
    new = elsewhere("science", home, do_sample=False)
    model = XLoraModel.from_pretrained(home / "science", pico_llama())
    prompt = prompt_of()

    routing = answer["routing"]
    assert routing["experts"] == ["bio", "protein"]
    assert [token["id"] for token in routing["tokens"]] == new[0].tolist()
    assert routing["tokens"][0]["token"] == pico_tokenizer().decode([int(new[0, 0])])
    with torch.no_grad():
        for length, token in enumerate(routing["tokens"]):
            scalings = model(torch.cat([prompt, new[:, :length]], 1)).scalings
            assert token["gates"] == pytest.approx(scalings[0, -1].mean(0).tolist(), abs=2e-5)
    means = torch.tensor([token["gates"] for token in routing["tokens"]]).mean(0).tolist()
    assert routing["mean"] == pytest.approx(means, abs=2e-5)
    assert 0.05 < means[0] < 0.95


@pytest.mark.parametrize("subject", ["pico", "bio"])
def test_what_no_head_weighs_has_no_routing(subject: str, home: Path, ask: Ask) -> None:
    assert ask("generate", subject, QUESTION, "--max-new-tokens", "1", "--json").json[0]["routing"] is None


# ---------------------------------------------------------------- several questions


def test_questions_of_a_file_are_answered_after_those_given(home: Path, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("Who?\n\nWhere?\n", encoding="utf-8-sig")
    (tmp_path / "asked.jsonl").write_text('"Who?"\n{"prompt": "Where?", "id": 3}\n')
    for name in ("asked.txt", "asked.jsonl"):
        answer = ask(
            "generate", "pico", QUESTION, "--file", str(tmp_path / name), "--max-new-tokens", "2", "--json"
        )
        assert [given["question"] for given in answer.json] == [QUESTION, "Who?", "Where?"]
        alone = ask("generate", "pico", "Where?", "--max-new-tokens", "2", "--json").json[0]
        assert answer.json[2] == alone


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.txt", None, "--file must be a file of questions in UTF-8 (No such file or directory)"),
        ("latin.txt", b"caf\xe9", "--file must be a file of questions in UTF-8 ("),
        ("asked.jsonl", b'"Who?"\n{"text": "Where?"}\n', 'JSON lines of a text or {"prompt": text} ('),
        ("blank.txt", b"\n \n", "QUESTIONS must be at least one, in UTF-8"),
    ],
)
def test_a_file_that_holds_no_questions_is_refused(
    name: str, content: bytes | None, said: str, home: Path, ask: Ask, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused = ask("generate", "pico", "--file", str(tmp_path / name))
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
    if name == "asked.jsonl":
        assert f"{tmp_path / name}:2" in refused.err


# ---------------------------------------------------------------- what has no meaning


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--top-k", "3"], "--top-k must be left out where nothing is drawn"),
        (["--top-p", "0.5"], "--top-p must be left out where nothing is drawn"),
        (["--min-p", "0.5"], "--min-p must be left out where nothing is drawn"),
        (["--top-k", "0", "--temperature", "1"], "--top-k must be a whole number in 1..16777216"),
        (["--top-p", "0", "--temperature", "1"], "--top-p must be a number above 0 to 1, or left out"),
        (["--top-p", "1.1", "--temperature", "1"], "--top-p must be a number above 0 to 1, or left out"),
        (["--min-p", "nan", "--temperature", "1"], "--min-p must be a number from 0 to 1, or left out"),
        (["--repetition-penalty", "0"], "--repetition-penalty must be a number above 0 to 100"),
        (["--num-return-sequences", "2"], "--num-return-sequences must be 1 where nothing is drawn"),
        (
            ["--num-beams", "2", "--num-return-sequences", "3"],
            "--num-return-sequences must be at most the 2 beams",
        ),
        (["--stop", ""], "--stop must be a list of"),
        (["--stop", "a", "--stop", "a"], "--stop must be a list of"),
        (["--num-beams", "2", "--stream"], "--stream must be left out with several beams or answers"),
    ],
)
def test_what_has_no_meaning_is_refused(options: list[str], said: str, home: Path, ask: Ask) -> None:
    refused = ask("generate", "pico", QUESTION, *options)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err


# ---------------------------------------------------------------- the use case


def test_the_use_case_is_called_without_a_command(home: Path) -> None:
    pieces: list[str] = []
    asked: list[str] = []
    request = GenerateRequest(subject="bio", questions=("Who?", "Where?"), max_new_tokens=4)
    with Registry.open(Settings.from_env({"ZOO_HOME": str(home / "home")})) as registry:
        given = list(generate(registry, request, on_question=asked.append, on_text=pieces.append))
    assert asked == ["Who?", "Where?"] == [answer.question for answer in given]
    assert "".join(pieces).strip()
    assert {answer.subject for answer in given} == {"adapter:bio@1"}
