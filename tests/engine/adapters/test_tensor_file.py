"""Our reader of safetensors in memory against the library's, on sound files and spoilt ones."""

import json

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.refusal import Refusal
from lorax_serve.engine.adapters.tensor_file import read_layout, split_file

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
shapes = st.lists(st.integers(0, 5), max_size=3)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    torch.manual_seed(0)
    names = draw(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=4))
    tensors = {
        name: torch.rand(draw(shapes)).to(draw(st.sampled_from(DTYPES)))
        for name in names
        if name != "__metadata__"
    }
    # With neither tensors nor entries the library writes what it cannot read itself.
    metadata = draw(
        st.none()
        | st.dictionaries(st.text(max_size=4), st.text(max_size=4), min_size=1, max_size=1)
    )
    return safetensors.torch.save(tensors, metadata)


def load_tensors(data: memoryview) -> dict[str, torch.Tensor]:
    header, body = split_file(data)
    layout = read_layout(header, len(body))
    return layout.tensors(layout.runs(body))


def ours(data: bytes) -> dict[str, torch.Tensor] | None:
    """None: refused."""
    try:
        return load_tensors(memoryview(bytearray(data)))
    except Refusal:
        return None


def the_librarys(data: bytes) -> dict[str, torch.Tensor] | None:
    try:
        loaded = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError):  # KeyError: a type that torch lacks
        return None
    return loaded if all(t.dtype in DTYPES for t in loaded.values()) else None


def assert_same(data: bytes) -> None:
    got, expected = ours(data), the_librarys(data)
    assert (got is None) == (expected is None)
    if got is not None and expected is not None:
        assert got.keys() == expected.keys()
        for name, tensor in got.items():
            assert tensor.shape == expected[name].shape
            assert tensor.dtype == expected[name].dtype
            as_bytes = tensor.flatten().view(torch.uint8)
            assert torch.equal(as_bytes, expected[name].flatten().view(torch.uint8))


@given(files())
def test_sound_files_give_the_same_tensors(data: bytes) -> None:
    assert ours(data) is not None
    assert_same(data)


@settings(max_examples=400)
@given(files(), st.data())
def test_spoilt_files_are_judged_alike(data: bytes, draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, max(0, len(data) - 1)))
    spoil = draw.draw(st.sampled_from(["cut", "grow", "flip", "digit", "length"]))
    if spoil == "cut":
        data = data[:place]
    elif spoil == "grow":
        data += b"\0"
    elif spoil == "flip":
        data = (
            data[:place]
            + bytes((data[place] ^ draw.draw(st.integers(1, 255)),))
            + data[place + 1 :]
        )
    elif spoil == "digit":
        digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
        if digits:
            at = draw.draw(st.sampled_from(digits))
            data = data[:at] + str(draw.draw(st.integers(0, 9))).encode() + data[at + 1 :]
    else:
        data = draw.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    assert_same(data)


def file_of(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "num_bytes"),
    [
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12),  # overlapping
        ({"a": entry(0, 8, [2]), "b": entry(12, 16, [1])}, 16),  # a gap
        ({"a": entry(4, 8, [1])}, 8),
        ({"a": entry(8, 0, [2])}, 8),
        ({"a": entry(0, 8, [3])}, 8),
        ({"a": entry(0, 8, [2])}, 12),
        ({"a": entry(0, 0, [2**62, 2**62])}, 0),
        ({"a": entry(0, 0, [0, 2**62])}, 0),
        ({"a": entry(0, 8, [-2])}, 8),
        ({"a": entry(0, 8, [2]), "__metadata__": {"a": 1}}, 8),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8),
        ({"a": entry(0, 8, [2], "F33")}, 8),
        ({}, 0),
        ({}, 1),
        ([], 0),
        (b"{", 0),
        (b"\xff", 0),
        (b"[" * 5000, 0),
        (b'{"a":' * 5000, 0),
    ],
)
def test_made_up_headers_are_judged_alike(header: object, num_bytes: int) -> None:
    assert_same(file_of(header, bytes(num_bytes)))


@pytest.mark.parametrize("padding", range(1, 8))
def test_bytes_that_lie_askew_are_copied(padding: int) -> None:
    text = json.dumps({"a": entry(0, 8, [2])}).encode()
    text += b" " * ((padding - len(text)) % 8)
    data = file_of(text, torch.tensor([1.5, -2.0]).numpy().tobytes())
    (tensor,) = load_tensors(memoryview(bytearray(data))).values()
    assert tensor.tolist() == [1.5, -2.0]
    assert tensor.data_ptr() % 8 == 0


def test_tensors_are_views_of_the_file() -> None:
    data = memoryview(bytearray(safetensors.torch.save({"a": torch.zeros(4)})))
    (tensor,) = load_tensors(data).values()
    data[-4:] = torch.tensor([7.0]).numpy().tobytes()
    assert tensor.tolist() == [0, 0, 0, 7]
