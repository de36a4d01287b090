"""The header parser: right files are read exactly, wrong ones refused with a reason, nothing else happens."""

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from registry.errors import WeightsInvalid
from registry.files.safetensors_file import ELEMENT_BYTES, HEADER_LIMIT_BYTES, TensorEntry, opened_tensors
from tests.registry.raw_safetensors import raw_bytes, tensor, write_raw
from tests.registry.staged import read_header, read_tensor

GOOD = {"a": tensor([2, 2], 0, 16), "b": tensor([1], 16, 20)}
DATA = bytes(range(20))

PROPERTY = settings(max_examples=60, deadline=None, database=None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "weights.safetensors"


def test_entries_come_in_the_order_of_their_bytes_with_offsets_in_the_file(file: Path) -> None:
    header = {"b": GOOD["b"], "__metadata__": {"format": "pt"}, "a": GOOD["a"]}
    write_raw(file, header, DATA)
    origin = 8 + len(json.dumps(header))
    assert read_header(file) == (
        TensorEntry(name="a", dtype="F32", shape=(2, 2), begin=origin, end=origin + 16),
        TensorEntry(name="b", dtype="F32", shape=(1,), begin=origin + 16, end=origin + 20),
    )


def test_scalars_and_empty_tensors_are_tensors_too(file: Path) -> None:
    write_raw(file, {"none": tensor([0, 3], 0, 0), "one": tensor([], 0, 4)}, b"\0" * 4)
    assert [(entry.name, entry.shape, entry.size) for entry in read_header(file)] == [
        ("none", (0, 3), 0),
        ("one", (), 1),
    ]


def test_a_header_padded_with_spaces_is_read(file: Path) -> None:
    write_raw(file, json.dumps(GOOD).encode() + b"   ", DATA)
    assert len(read_header(file)) == 2


WRONG: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "too short"),
    "seven bytes": (b"\x01" * 7, "too short"),
    "a header length of 2^63": (raw_bytes(GOOD, DATA, length=2**63), "claims a header of 9,223,372"),
    "a header over the limit": (raw_bytes(b"{}", length=HEADER_LIMIT_BYTES + 1), "claims a header"),
    "a header longer than the file": (raw_bytes(GOOD, length=4096), "ends inside its header"),
    "no brace": (raw_bytes(b" {}"), "does not begin with"),
    "a list": (raw_bytes(b"[]"), "does not begin with"),
    "no JSON": (raw_bytes(b'{"a": '), "is not JSON"),
    "no UTF-8": (raw_bytes(b'{"\xff": 1}'), "is not UTF-8"),
    "a name twice": (raw_bytes(b'{"a": 1, "a": 2}'), "twice"),
    "a deep header": (raw_bytes(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "NaN": (raw_bytes(b'{"a": NaN}'), "NaN"),
    "an entry that is no object": (raw_bytes({"a": [1]}), "must have dtype"),
    "a field missing": (raw_bytes({"a": {"dtype": "F32", "shape": []}}), "must have dtype"),
    "a field too many": (raw_bytes({"a": {**tensor([1], 0, 4), "x": 1}}, b"\0" * 4), "must have dtype"),
    "an unknown dtype": (raw_bytes({"a": tensor([1], 0, 4, "F31")}, b"\0" * 4), "unknown dtype 'F31'"),
    "a dtype that is a list": (raw_bytes({"a": tensor([1], 0, 4, ["F32"])}, b"\0" * 4), "unknown dtype"),  # type: ignore[arg-type]
    "a negative size": (raw_bytes({"a": tensor([-1], 0, 4)}, b"\0" * 4), "expected sizes"),
    "a size that is true": (raw_bytes({"a": tensor([True], 0, 4)}, b"\0" * 4), "expected sizes"),
    "a size that is a float": (raw_bytes({"a": tensor([1.0], 0, 4)}, b"\0" * 4), "expected sizes"),
    "a product over 2^64": (raw_bytes({"a": tensor([2**33, 2**33], 0, 4)}, b"\0" * 4), "needs 295,147"),
    "sizes over 2^63": (raw_bytes({"a": tensor([2**64], 0, 4)}, b"\0" * 4), "expected sizes"),
    "a thousand axes": (raw_bytes({"a": tensor([1] * 1000, 0, 4)}, b"\0" * 4), "expected sizes"),
    "fewer bytes than the shape": (raw_bytes({"a": tensor([2], 0, 4)}, b"\0" * 4), "needs 8 bytes"),
    "more bytes than the shape": (raw_bytes({"a": tensor([1], 0, 8)}, b"\0" * 8), "needs 4 bytes"),
    "offsets backwards": (raw_bytes({"a": tensor([1], 4, 0)}, b"\0" * 4), "expected .begin, end"),
    "three offsets": (
        raw_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, b"\0" * 4),
        "expected .begin, end",
    ),
    "an overlap": (raw_bytes({"a": tensor([2], 0, 8), "b": tensor([1], 4, 8)}, b"\0" * 8), "overlaps"),
    "the same bytes twice": (
        raw_bytes({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"\0" * 4),
        "overlaps",
    ),
    "a gap": (raw_bytes({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, b"\0" * 12), "leaves a gap"),
    "a gap at the start": (raw_bytes({"a": tensor([1], 4, 8)}, b"\0" * 8), "leaves a gap"),
    "data cut short": (raw_bytes(GOOD, DATA[:-1]), "ends inside its tensors"),
    "a zip after the end": (raw_bytes(GOOD, DATA + b"PK\x05\x06" + b"\0" * 18), "bytes after its last"),
    "metadata that is no text": (raw_bytes({"__metadata__": {"a": 1}}), "must map text to text"),
    "metadata that is a list": (raw_bytes({"__metadata__": []}), "must map text to text"),
    "a pickle": (pickle.dumps({"weight": [1.0] * 100}), "claims a header"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_with_the_reason(file: Path, what: str) -> None:
    data, reason = WRONG[what]
    file.write_bytes(data)
    with pytest.raises(WeightsInvalid, match=reason):
        read_header(file)


def test_a_file_cut_at_any_byte_is_refused(file: Path) -> None:
    whole = raw_bytes(GOOD, DATA)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsInvalid):
            read_header(file)


def test_more_tensors_than_any_model_has_are_refused_in_bounded_time(file: Path) -> None:
    count = 100_001
    header = ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    write_raw(file, f"{{{header}}}".encode())
    started = time.process_time()
    with pytest.raises(WeightsInvalid, match="lists 100,001 tensors"):
        read_header(file)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "device", "nothing"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.safetensors"
    if kind == "link":
        path.symlink_to(write_raw(tmp_path / "real", GOOD, DATA))
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(WeightsInvalid, match=r"link|pipe|folder|device|No such file"):
        read_header(path)


@PROPERTY
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_worse(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(WeightsInvalid):
        read_header(file)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["F32", "BF16"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@PROPERTY
@given(header=st.dictionaries(st.text(max_size=5), _json, max_size=4), data=st.binary(max_size=16))
def test_a_random_header_is_read_or_refused_and_nothing_worse(
    file: Path, header: dict[str, Any], data: bytes
) -> None:
    write_raw(file, json.dumps(header).encode("utf-8", "surrogatepass"), data)
    try:
        entries = read_header(file)
    except WeightsInvalid:
        return
    assert sum(entry.end - entry.begin for entry in entries) == len(data)


@PROPERTY
@given(position=st.integers(0, 200), value=st.integers(0, 255))
def test_a_changed_byte_never_leads_outside_the_file(file: Path, position: int, value: int) -> None:
    whole = bytearray(raw_bytes(GOOD, DATA))
    whole[position % len(whole)] = value
    file.write_bytes(whole)
    try:
        entries = read_header(file)
    except WeightsInvalid:
        return
    assert all(8 < entry.begin <= entry.end <= len(whole) for entry in entries)


@PROPERTY
@given(
    tensors=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
            lambda name: name != "__metadata__"
        ),
        hnp.arrays(
            st.sampled_from([np.float16, np.float32, np.float64]),
            hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
            elements=st.floats(-100, 100, width=16),
        ),
        max_size=5,
    )
)
def test_what_safetensors_writes_is_what_is_read(file: Path, tensors: dict[str, Any]) -> None:
    save_file(tensors, file)
    entries = {entry.name: entry for entry in read_header(file)}
    assert entries.keys() == tensors.keys()
    for name, values in tensors.items():
        assert entries[name].shape == values.shape
        read = read_tensor(file, entries[name])
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values.astype(np.float32))


def test_bfloat16_is_widened_exactly(file: Path) -> None:
    bits = np.array([0x3F80, 0xC020, 0x4049, 0x7F80, 0x0001, 0x8000], "<u2")
    write_raw(file, {"a": tensor([2, 3], 0, 12, "BF16")}, bits.tobytes())
    expected = [[1.0, -2.5, 3.140625], [float("inf"), 2.0**-133, -0.0]]
    np.testing.assert_array_equal(read_tensor(file, read_header(file)[0]), np.array(expected, np.float32))


def test_a_float64_too_large_for_float32_becomes_infinite_without_a_warning(file: Path) -> None:
    save_file({"a": np.array([1e300])}, file)
    assert np.isinf(read_tensor(file, read_header(file)[0])).all()


@pytest.mark.parametrize("dtype", ["I32", "F8_E4M3", "BOOL"])
def test_a_tensor_that_is_no_float_is_not_read_as_one(file: Path, dtype: str) -> None:
    size = ELEMENT_BYTES[dtype]
    write_raw(file, {"a": tensor([1], 0, size, dtype)}, b"\1" * size)
    with pytest.raises(WeightsInvalid, match=f"is {dtype}, expected"):
        read_tensor(file, read_header(file)[0])


def test_a_file_that_shrinks_while_it_is_read_is_refused(file: Path) -> None:
    write_raw(file, GOOD, DATA)
    with opened_tensors(file) as opened:
        last = opened.entries[-1]
        os.truncate(file, last.end - 1)
        with pytest.raises(WeightsInvalid, match="became shorter"):
            opened.data_of(last)
        with pytest.raises(WeightsInvalid, match="became shorter"):
            list(opened.chunks_of(last))


def test_a_tensor_in_pieces_is_the_tensor(file: Path) -> None:
    data = os.urandom(2_500_000)
    write_raw(file, {"a": tensor([2_500_000], 0, 2_500_000, "U8")}, data)
    with opened_tensors(file) as opened:
        pieces = [bytes(piece) for piece in opened.chunks_of(opened.entries[0])]
        assert b"".join(pieces) == bytes(opened.data_of(opened.entries[0])) == data
    assert len(pieces) > 1


def test_messages_name_the_file_that_was_given(file: Path) -> None:
    file.write_bytes(b"")
    with (
        pytest.raises(WeightsInvalid, match=r"^/given/weights has 0 bytes"),
        opened_tensors(file, called=Path("/given/weights")),
    ):
        pass
