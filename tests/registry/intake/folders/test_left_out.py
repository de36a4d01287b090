"""One note says what was left out and why."""

from registry.intake.folders.left_out import left_out_note


def test_reasons_are_grouped_and_long_lists_counted() -> None:
    note = left_out_note(
        [
            *("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"),
            "._x",
            "m.gguf",
            "x",
        ],
        ["checkpoint-1", "runs", ".cache"],
        unusable={"pipe": "a named pipe"},
        adapters=["checkpoint-1"],
    )
    assert note == (
        "left out unopened, because an adapter does not need it: of the training (optimizer.pt, scheduler.pt,"
        " rng_state_0.pth and 1 more); hidden (._x, .cache/); other weights (m.gguf); no file of an adapter"
        " (x); with adapters of their own (checkpoint-1/); folders (runs/); pipe, a named pipe"
    )


def test_nothing_is_said_of_nothing() -> None:
    assert left_out_note([], [], unusable={}, adapters=[]) is None


def test_a_name_that_a_terminal_would_obey_is_escaped() -> None:
    note = left_out_note(["x\x1b[31m", "y" * 300], [], unusable={"z\n": "a socket"}, adapters=[])
    assert note is not None
    assert note.isprintable()
    assert len(note) < 400
