"""Where an adapter lies: in a folder below, in a hub's cache, at a training checkpoint; links stay inside."""

import json
import os
import shutil
from pathlib import Path

import pytest

from registry.errors import InvalidAdapter
from registry.intake.folders.places import adapters_in, find_adapter
from tests.registry.folders import write_adapter

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def cached(root: Path, *, subfolder: str = "") -> Path:
    """A repository as huggingface_hub keeps it; returns the folder models--acme--poems."""
    repository = root / "models--acme--poems"
    snapshot = repository / "snapshots" / COMMIT / subfolder
    snapshot.mkdir(parents=True)
    write_adapter(repository / "blobs")
    for blob in [*(repository / "blobs").iterdir()]:
        (snapshot / blob.name).symlink_to(os.path.relpath(blob, snapshot))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository


def test_a_folder_that_holds_an_adapter_is_its_place(tmp_path: Path) -> None:
    place = find_adapter(write_adapter(tmp_path / "a"))
    assert (place.folder, place.origin, place.others) == (tmp_path / "a", "file:a", ())
    assert list(place.files) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_of_an_adapter_stands_for_its_folder(tmp_path: Path, name: str) -> None:
    assert find_adapter(write_adapter(tmp_path / "a") / name).folder == tmp_path / "a"


def test_one_below_is_named_and_taken_on_request(tmp_path: Path) -> None:
    write_adapter(tmp_path / "repo" / "adapter")
    with pytest.raises(
        InvalidAdapter, match=r"holds no adapter itself, below it adapter holds one.*--subfolder"
    ):
        find_adapter(tmp_path / "repo")
    place = find_adapter(tmp_path / "repo", subfolder="adapter")
    assert (place.folder.name, place.origin) == ("adapter", "file:repo/adapter")


def test_several_below_are_all_named_and_numbers_are_in_order(tmp_path: Path) -> None:
    for name in ("run/v10", "run/v9", "law"):
        write_adapter(tmp_path / name)
    assert adapters_in(tmp_path) == ("law", "run/v9", "run/v10")
    with pytest.raises(InvalidAdapter, match=r"law, run/v9, run/v10 hold one each.*--all-as"):
        find_adapter(tmp_path)


def test_the_folder_itself_comes_last(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "a" / "reference")
    assert adapters_in(tmp_path / "a") == ("reference", "")
    assert find_adapter(tmp_path / "a").others == ("reference",)


@pytest.mark.parametrize("subfolder", ["..", "/etc", "../b", "a/../../b"])
def test_a_subfolder_elsewhere_is_refused(tmp_path: Path, subfolder: str) -> None:
    write_adapter(tmp_path / "b")
    (tmp_path / "root" / "a").mkdir(parents=True)
    with pytest.raises(InvalidAdapter, match="is not below"):
        find_adapter(tmp_path / "root", subfolder=subfolder)


def test_a_subfolder_that_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    write_adapter(tmp_path / "one")
    with pytest.raises(InvalidAdapter, match="no subfolder 'two'; it holds one/"):
        find_adapter(tmp_path, subfolder="two")


@pytest.mark.parametrize("given", [".", f"snapshots/{COMMIT}"])
def test_a_hub_s_cache_is_followed_and_named(tmp_path: Path, given: str) -> None:
    repository = cached(tmp_path)
    place = find_adapter(repository / given)
    assert place.origin == f"hub:acme/poems@{COMMIT}"
    assert {path.parent.name for path in place.files.values()} == {"blobs"}


def test_a_subfolder_of_a_hub_s_cache_is_followed(tmp_path: Path) -> None:
    place = find_adapter(cached(tmp_path, subfolder="v2"), subfolder="v2")
    assert place.origin == f"hub:acme/poems@{COMMIT}/v2"


def test_of_two_revisions_without_a_main_one_has_to_be_given(tmp_path: Path) -> None:
    repository = cached(tmp_path)
    (repository / "refs" / "main").unlink()
    (repository / "snapshots" / "f00").mkdir()
    with pytest.raises(InvalidAdapter, match=r"2 revisions.*snapshots/f00"):
        find_adapter(repository)


def test_a_link_out_of_the_cache_is_not_followed(tmp_path: Path) -> None:
    repository = cached(tmp_path)
    outside = write_adapter(tmp_path / "outside") / WEIGHTS
    link = repository / "snapshots" / COMMIT / WEIGHTS
    link.unlink()
    link.symlink_to(outside)
    place = find_adapter(repository)
    assert WEIGHTS not in place.files
    assert place.listing.unusable[WEIGHTS].endswith(f"outside of {repository}")


def test_a_folder_called_snapshots_alone_makes_no_cache(tmp_path: Path) -> None:
    """Without blobs beside it, links may not leave the folder that was given."""
    write_adapter(tmp_path / "elsewhere")
    (tmp_path / "snapshots" / "a").mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        (tmp_path / "snapshots" / "a" / name).symlink_to(tmp_path / "elsewhere" / name)
    place = find_adapter(tmp_path / "snapshots" / "a")
    assert set(place.listing.unusable) == {CONFIG, WEIGHTS}


def test_a_link_to_a_folder_inside_is_followed_and_circles_end(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out" / "checkpoint-9")
    (tmp_path / "out" / "latest").symlink_to("checkpoint-9")
    (tmp_path / "out" / "again").symlink_to(".")
    assert adapters_in(tmp_path / "out") == ("checkpoint-9",)
    assert find_adapter(tmp_path / "out", subfolder="latest").folder == tmp_path / "out" / "latest"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["config.json", "model.safetensors"], "a whole model"),
        (["model_index.json"], "of diffusers"),
        (["poems.Q4_K_M.gguf"], "for llama.cpp"),
        (["poems.tar.gz"], "unpack it"),
        (["lit_model.pth.lora", "hyperparameters.yaml"], "of LitGPT"),
        (["__0_0.distcp", ".metadata"], "a checkpoint in parts"),
        (["README.md"], "give the folder that PEFT's save_pretrained wrote (here is README.md)"),
        ([], "here is nothing"),
    ],
)
def test_what_is_there_instead_is_said(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InvalidAdapter) as caught:
        find_adapter(tmp_path)
    assert words in str(caught.value)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A Trainer's output folder, the best of whose checkpoints is the second."""
    for step in (90, 100, 1000):
        folder = write_adapter(tmp_path / "out" / f"checkpoint-{step}", seed=step)
        state = {"global_step": step, "best_model_checkpoint": "/gpu/box/out/checkpoint-100"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("asked", "name"), [("best", "100"), ("last", "1000"), ("90", "90"), ("checkpoint-90", "90")]
)
def test_a_checkpoint_is_taken_on_request(output: Path, asked: str, name: str) -> None:
    place = find_adapter(output, checkpoint=asked)
    assert (place.folder.name, place.origin) == (f"checkpoint-{name}", f"file:out/checkpoint-{name}")


def test_checkpoints_alone_are_named_with_the_option(output: Path) -> None:
    with pytest.raises(
        InvalidAdapter, match=r"checkpoint-90, checkpoint-100, checkpoint-1000.*--checkpoint last"
    ):
        find_adapter(output)


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(output: Path) -> None:
    with pytest.raises(InvalidAdapter, match="no checkpoint 50; there are checkpoint-90, checkpoint-100"):
        find_adapter(output, checkpoint="50")
    with pytest.raises(InvalidAdapter, match="has no training checkpoint"):
        find_adapter(output / "checkpoint-90", checkpoint="last")


def test_a_best_checkpoint_that_was_deleted_or_never_known_is_refused(output: Path) -> None:
    shutil.rmtree(output / "checkpoint-100")
    with pytest.raises(
        InvalidAdapter, match=r"was checkpoint-100, as .*trainer_state.json says, and is no longer"
    ):
        find_adapter(output, checkpoint="best")
    for step in (90, 1000):
        (output / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    with pytest.raises(InvalidAdapter, match="says which checkpoint was best"):
        find_adapter(output, checkpoint="best")
