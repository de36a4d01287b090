"""`zoo train` with a file: its fields, overridden by options; looking leaves nothing behind."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from registry.files.yaml_text import read_yaml_object
from tests.command_line import Ask
from tests.registry.folders import write_dataset
from workers.errors import SpecFileInvalid
from workers.requests.specs import SPECS

pytestmark = pytest.mark.usefixtures("catalogue")

FILE = "name: new\nbase: pico\ntrain_dataset: bio.eval\nlearning_rate: 2e-3\nbatch_size: 1\n"


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(FILE)
    return str(path)


def test_a_file_asks_for_what_its_options_would(ask: Ask, spec: str) -> None:
    options = ("--name", "new", "--base", "pico", "--data", "bio.eval")
    by_options = ask("train", *options, "--learning-rate", "2e-3", "--batch-size", "1", "--detach", "-q")
    by_file = ask("train", spec, "--detach", "-q")
    assert (by_file.code, by_file.out) == (0, by_options.out)  # an equal request is one job


def test_options_override_a_file(ask: Ask, spec: str) -> None:
    shown = ask("train", spec, "--print-spec", "--json", "--rank", "4", "--name", "other").json
    assert (shown["rank"], shown["name"], shown["learning_rate"]) == (4, "other", 0.002)
    assert shown["train_dataset"] == "bio.eval@1"


def test_what_is_shown_asks_for_the_same(ask: Ask, spec: str, tmp_path: Path) -> None:
    shown = ask("train", spec, "--print-spec")
    again = tmp_path / "again.yaml"
    again.write_text(shown.out)
    assert ask("train", str(again), "--print-spec").out == shown.out
    assert ask("train", str(again), "--detach", "-q").out == ask("train", spec, "--detach", "-q").out


def test_what_is_shown_registers_nothing(ask: Ask, spec: str, tmp_path: Path) -> None:
    file = str(write_dataset(tmp_path / "new.train.jsonl"))
    shown = ask("train", spec, "--data", file, "--print-spec", "--json").json
    assert (shown["train_dataset"], shown["domains"]) == (file, ["new"])
    assert "new.train" not in ask("datasets", "ls").out
    assert ask("jobs", "ls", "--kind", "train", "--json").json == []


def test_epochs_become_steps_and_take_the_place_of_the_files(ask: Ask, spec: str) -> None:
    examples = ask("datasets", "show", "bio.eval", "--json").json["examples"]
    for batch_size, steps in ((1, round(1.5 * examples)), (examples, 2), (examples * 2, 2)):
        asked = ("--epochs", "1.5", "--batch-size", str(batch_size), "--print-spec", "--json")
        assert ask("train", spec, *asked).json["steps"] == steps
    with Path(spec).open("a") as file:
        file.write("steps: 7\n")
    assert ask("train", spec, "--epochs", "1", "--print-spec", "--json").json["steps"] == examples
    both = ask("train", spec, "--epochs", "1", "--steps", "3", "--print-spec")
    assert both.code == 2
    assert "--epochs must be left out beside steps (3), got 1.0" in both.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("learnin_rate: 1", "learnin_rate must be left out, .*did you mean learning_rate"),
        ("epochs: no", "--epochs must be a number above 0 to 10000, got 'no'"),
        ("epochs: 0", "--epochs must be a number above 0"),
        ("rank: 1.5", r"--rank must be a whole number in 1..1024, got 1.5"),
    ],
)
def test_a_file_with_a_field_that_cannot_be_is_refused(ask: Ask, spec: str, line: str, said: str) -> None:
    with Path(spec).open("a") as file:
        file.write(line + "\n")
    refused = ask("train", spec, "--detach")
    assert refused.code == 2
    assert re.search(said, refused.err), refused.err


def test_what_nothing_gives_is_named_as_its_option(ask: Ask) -> None:
    refused = ask("train", "--base", "pico", "--data", "bio.eval")
    assert refused.code == 2
    assert "--name must be given in a train request" in refused.err


@pytest.mark.parametrize("kind", list(SPECS))
def test_every_kind_has_a_schema_that_holds(ask: Ask, kind: str) -> None:
    shown = json.loads(ask("schema", kind).out)
    jsonschema.Draft202012Validator.check_schema(shown)


def test_the_schema_of_training_takes_a_file_and_refuses_two_lengths(ask: Ask, spec: str) -> None:
    schema = json.loads(ask("schema", "train").out)
    fields = read_yaml_object(Path(spec), refusal=SpecFileInvalid)
    jsonschema.validate({**fields, "epochs": 2}, schema)
    for wrong in ({"epochs": 2, "steps": 3}, {"learnin_rate": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**fields, **wrong}, schema)
