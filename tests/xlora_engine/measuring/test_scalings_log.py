"""Scalings are recorded without graphs, device memory or padding, and come back from a file as they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.xlora_engine.conftest import Mixture
from xlora_engine.errors import ConfigInvalid, SavedFileUnreadable
from xlora_engine.measuring.routing import RoutingRecorder
from xlora_engine.measuring.scalings_log import ScalingsLog, recording

NAMES = ("bio", "protein.v2", "mat-3")


@pytest.fixture
def padded(token_ids: Tensor) -> dict[str, Tensor]:
    """The first sequence begins with four tokens of padding."""
    mask = torch.ones_like(token_ids)
    mask[0, :4] = 0
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": token_ids, "attention_mask": mask, "position_ids": position_ids}


def test_every_token_but_padding_is_kept_as_the_model_gave_it(
    mixture: Mixture, padded: dict[str, Tensor]
) -> None:
    model = mixture()
    log = ScalingsLog.of(model)

    with recording(model, log):
        out = model(**padded)
    model(**padded)

    assert out.scalings is not None
    assert [tuple(s.shape) for s in log.sequences] == [
        (5, len(model.layers), 3),
        (9, len(model.layers), 3),
    ], "the call outside is not recorded"
    assert torch.equal(log.sequences[0], out.scalings[0, 4:])
    assert torch.equal(log.sequences[1], out.scalings[1])
    assert (log.experts, log.layers) == (NAMES, tuple(model.layers))


def test_nothing_kept_holds_a_graph_or_the_memory_of_the_batch(
    mixture: Mixture, padded: dict[str, Tensor]
) -> None:
    model = mixture()
    log = ScalingsLog.of(model)
    with recording(model, log):
        model(**padded, labels=padded["input_ids"]).loss.backward()

    for sequence in log.sequences:
        assert not sequence.requires_grad
        assert sequence.grad_fn is None
        assert sequence.device.type == "cpu"
        assert sequence.untyped_storage().nbytes() == sequence.numel() * 4


def test_a_generation_is_recorded_token_by_token(mixture: Mixture, padded: dict[str, Tensor]) -> None:
    model = mixture()
    log = ScalingsLog.of(model)

    with recording(model, log):
        ids = model.generate(
            padded["input_ids"],
            attention_mask=padded["attention_mask"],
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
        )

    whole = torch.cat([torch.zeros(1, 4), torch.ones(1, 7)], 1).long()
    position_ids = (whole.cumsum(-1) - 1).clamp(min=0)
    again = model(ids[:1, :-1], attention_mask=whole, position_ids=position_ids).scalings
    assert again is not None
    first_row = torch.cat([log.sequences[0], *log.sequences[2::2]])
    assert first_row.shape == again[0, 4:].shape
    assert (first_row - again[0, 4:]).abs().max() < 1e-4


def test_a_log_and_sums_alone_give_the_same_routing(mixture: Mixture, padded: dict[str, Tensor]) -> None:
    model = mixture()
    log, sums = ScalingsLog.of(model), RoutingRecorder(NAMES)

    with recording(model, log), recording(model, sums):
        model(**padded)
        model(inputs_embeds=model.base.get_input_embeddings()(padded["input_ids"]))

    ours, theirs = log.routing(), sums.result()
    assert ours.tokens == theirs.tokens == 5 + 9 + 2 * 9
    assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-6)
    assert ours.load == pytest.approx(theirs.load, abs=1e-6)
    assert sum(ours.load.values()) == pytest.approx(1, abs=1e-5)
    assert len(ours.load_by_layer) == len(model.layers)


def test_fixed_scalings_are_recorded_for_every_token_without_disabled_experts(
    mixture: Mixture, padded: dict[str, Tensor]
) -> None:
    model = mixture()
    log = ScalingsLog(NAMES)

    with recording(model, log):
        with model.disabled():
            model(**padded)
        assert not log.sequences
        with model.fixed_scalings(model.constant_scalings([0.5, 0.25, 0.0])):
            model(padded["input_ids"], padded["attention_mask"])

    assert [len(sequence) for sequence in log.sequences] == [5, 9]
    assert all((sequence == torch.tensor([0.5, 0.25, 0.0])).all() for sequence in log.sequences)


@pytest.mark.parametrize("asked", [{}, {"num_beams": 2}], ids=str)
def test_generation_with_fixed_scalings_is_recorded_without_changing_it(
    asked: dict[str, Any], mixture: Mixture, padded: dict[str, Tensor]
) -> None:
    model, log = mixture(), ScalingsLog(NAMES)
    prompt = {"inputs": padded["input_ids"], "attention_mask": padded["attention_mask"]}
    asked = prompt | {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False} | asked

    with model.fixed_scalings(model.constant_scalings([0.5, 0.25, 0.0])):
        unrecorded = model.generate(**asked)
        with recording(model, log):
            recorded = model.generate(**asked)

    assert torch.equal(recorded, unrecorded)
    beams = asked.get("num_beams", 1)
    assert sum(map(len, log.sequences)) == beams * (5 + 9 + 2 * 3)
    assert all((sequence == torch.tensor([0.5, 0.25, 0.0])).all() for sequence in log.sequences)


def test_a_log_comes_back_from_its_file_as_it_was(
    mixture: Mixture, padded: dict[str, Tensor], tmp_path: Path
) -> None:
    model = mixture()
    log = ScalingsLog.of(model)
    with recording(model, log):
        model(**padded)
        model(padded["input_ids"][:, :3])

    log.save(tmp_path / "scalings")
    again = ScalingsLog.load(tmp_path / "scalings")

    assert (again.experts, again.layers) == (log.experts, log.layers)
    assert len(again.sequences) == 4
    assert all(torch.equal(a, b) for a, b in zip(again.sequences, log.sequences, strict=True))
    with recording(model, again):
        model(padded["input_ids"])
    assert len(again.sequences) == 6, "what was loaded goes on"


def test_an_empty_log_comes_back_empty(tmp_path: Path) -> None:
    ScalingsLog(NAMES, ("a", "b")).save(tmp_path / "scalings")

    again = ScalingsLog.load(tmp_path / "scalings")

    assert (again.experts, again.layers, again.sequences) == (NAMES, ("a", "b"), [])


def test_a_sequence_of_padding_alone_is_left_out() -> None:
    log = ScalingsLog(NAMES)

    log.add(torch.rand(2, 3, 1, 3), torch.tensor([[0, 0, 0], [0, 1, 1]]))

    assert [len(sequence) for sequence in log.sequences] == [2]


@pytest.mark.parametrize("shape", [(1, 2, 1, 4), (1, 2, 5, 3)])
def test_scalings_of_another_model_are_refused(shape: tuple[int, ...]) -> None:
    log = ScalingsLog(NAMES)
    log.add(torch.rand(1, 2, 1, 3), torch.ones(1, 2, dtype=torch.long))

    with pytest.raises(ConfigInvalid, match="scalings must be of 1 layers and 3 experts"):
        log.add(torch.rand(shape), torch.ones(1, 2, dtype=torch.long))


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    save_file({"scalings": torch.rand(2, 1, 3)}, tmp_path / "other")
    (tmp_path / "half").write_bytes(b"\x10\x00")

    with pytest.raises(SavedFileUnreadable, match="is no log of scalings"):
        ScalingsLog.load(tmp_path / "other")
    for name in ("half", "missing"):
        with pytest.raises(SavedFileUnreadable, match=f"cannot read the log of scalings .*{name}"):
            ScalingsLog.load(tmp_path / name)
