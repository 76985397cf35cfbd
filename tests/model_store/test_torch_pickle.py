"""torch_pickle.py: that no pickle, however written, makes it run, import or change anything."""

import collections
import contextlib
import io
import os
import pickle
import subprocess
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.checkpoint import CheckpointError, parse_checkpoint
from model_store.torch_pickle import TensorSpec, load_inert
from tests.model_store.fakes import torch_files


class Reduces:
    """Pickles as a call of anything with anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def executable_gadgets(canary):
    """Pickles that create the file `canary` when the standard unpickler loads them."""
    command, python = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system by GLOBAL": b"\x80\x02cos\nsystem\n(" + text(command) + b"tR.",
        "os.system by STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R.",
        "posix.system": b"\x80\x02cposix\nsystem\n" + text(command) + b"\x85R.",
        "INST": b"(" + b"S" + repr(command).encode() + b"\n" + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(command) + b"o.",
        "eval": pickle.dumps(Reduces(eval, python), 2),
        "exec in protocol 0": pickle.dumps(Reduces(exec, python), 0),
        "exec in protocol 5": pickle.dumps(Reduces(exec, python), 5),
        "Popen": pickle.dumps(Reduces(subprocess.check_call, ["touch", str(canary)]), 4),
        "getattr of a module": (
            b"\x80\x02cbuiltins\ngetattr\n(cimportlib\nimport_module\n" + text("os") + b"\x85R"
            b"" + text("system") + b"tR" + text(command) + b"\x85R."
        ),
        "dotted name": b"\x80\x04" + text("collections") + text("_sys.modules.__class__") + b"\x930"
        b"cos\nsystem\n" + text(command) + b"\x85R.",
        "inside a state dict": pickle.dumps({"w": [Reduces(os.system, command)]}, 2),
        "as a dictionary key": pickle.dumps({Reduces(os.system, command): 1}, 2),
        "popped unused": b"\x80\x02cos\nsystem\n" + text(command) + b"\x85R0}.",
        "setstate by BUILD": (
            b"\x80\x02ccollections\nOrderedDict\n)R}"
            + text("__setstate__")
            + b"cos\nsystem\nsb"
            + text(command)
            + b"b."
        ),
    }


GADGETS = sorted(executable_gadgets("unused"))
CARRIERS = {
    "bare pickle": lambda gadget: gadget,
    "zip archive": lambda gadget: torch_files.zip_of({"data.pkl": gadget, "version": b"3\n"}),
    "legacy main pickle": torch_files.legacy_of,
    "legacy magic": lambda gadget: gadget + torch_files.legacy_of(pickle.dumps({}, 2)),
    "legacy keys": lambda gadget: (
        b"".join(pickle.dumps(part, 2) for part in (torch_files.MAGIC, 1001, torch_files.SYSTEM, {})) + gadget
    ),
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_the_gadgets_are_real(gadget, tmp_path):
    """Each gadget does run code under the standard unpickler; otherwise refusing it would prove nothing."""
    canary = tmp_path / "canary"
    try:
        pickle.loads(executable_gadgets(canary)[gadget])
    except TypeError:
        assert gadget == "as a dictionary key" or gadget.startswith("setstate"), gadget
    assert canary.exists()


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("gadget", GADGETS)
def test_malicious_checkpoints_are_refused_and_run_nothing(gadget, carrier, tmp_path):
    """A pickle that would run code is refused in every place a checkpoint can hold one, and the code does not run."""
    canary = tmp_path / "canary"
    file = CARRIERS[carrier](executable_gadgets(canary)[gadget])
    with pytest.raises(CheckpointError):
        parse_checkpoint(file, "evil.pth")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.jit", "load"),
        ("collections", "OrderedDict.__init__"),
        ("collections.OrderedDict", "__reduce__"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch", "nn.Module"),
        ("TORCH", "FloatStorage"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_refused_global_is_named(module, name, protocol):
    """Whatever a pickle names beyond tensors and dictionaries is refused with its full name and what to do."""
    file = torch_files.zip_file({"w": torch_files.Named(module, name)}, protocol=protocol)
    with pytest.raises(CheckpointError) as refusal:
        parse_checkpoint(file, "model.pth")
    assert f"{module}.{name}" in str(refusal.value)
    assert "nothing was executed" in str(refusal.value)
    assert "safetensors" in str(refusal.value)


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\x01.",  # EXT1
        b"\x83\x01\x01.",  # EXT2
        b"\x84\x01\x01\x01\x01.",  # EXT4
        b"Pos.system\n.",  # PERSID
        b")}\x92.",  # NEWOBJ_EX
        b"\x97.",  # NEXT_BUFFER
        b"\x8f.",  # EMPTY_SET
        b"Vtext\n.",  # UNICODE of protocol 0
    ],
)
def test_opcodes_that_state_dicts_do_not_need_are_refused(body):
    """An opcode outside the short list is refused by its name, before it does anything."""
    with pytest.raises(CheckpointError, match=r"pickle opcode [A-Z]"):
        load_inert(io.BytesIO(b"\x80\x04" + body))


@pytest.mark.parametrize(
    "body",
    [
        b"ccollections\nOrderedDict\n}" + text("x") + b"K\x01sb.",  # attributes on a class
        b"ctorch._utils\n_rebuild_tensor_v2\nN}" + text("__defaults__") + b")s\x86b.",  # attributes on a function
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",  # a tensor of nothing
        b"ctorch\nFloatStorage\n)R.",  # a call of a storage type
        b"ccollections\nOrderedDict\n}\x85R.",  # a call with arguments
        b"})R.",  # a call of data
        b"(ctorch\nFloatStorage\ntQ.",  # a persistent id of another form
        b"}(K\x01K\x01K\x01tK\x01s.",  # a tuple as a key
        b"]K\x01K\x02s.",  # items set on a list
        b"}K\x01a.",  # a value appended to a dictionary
        b"h\x05.",  # a memo that was never put
        b"0.",
        b".",
        b"K\x01K\x02.",
        b"(K\x01.",
    ],
)
def test_known_opcodes_in_unknown_combinations_are_refused(body):
    """Allowed opcodes and names, combined as torch never does, are refused."""
    with pytest.raises(CheckpointError):
        load_inert(io.BytesIO(b"\x80\x04" + body))


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("body", [b"ct\\orch\nFloatStorage\n.", b"S'\\o'\n."])
def test_what_python_would_only_warn_of_is_refused(body, action):
    """A backslash that escapes nothing is a damaged file to us, whatever the caller does with warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(CheckpointError, match="invalid escape sequence"):
            load_inert(io.BytesIO(b"\x80\x02" + body))


def test_attributes_are_dropped_and_classes_stay_as_they_were():
    """A BUILD on a dictionary sets nothing: attributes of a saved OrderedDict are passed over."""
    body = b"ccollections\nOrderedDict\n)R}" + text("__class__") + text("evil") + b"sb."
    before = vars(collections.OrderedDict).copy()
    loaded = load_inert(io.BytesIO(b"\x80\x02" + body))
    assert type(loaded) is dict
    assert loaded == {}
    assert vars(collections.OrderedDict).copy() == before


def test_lying_sizes_claim_no_memory():
    """A length far beyond the file, or a memo index of four billion, is refused or harmless, and allocates nothing."""
    for body in (b"B\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 7 + b"\x0f", b"\x8b\xff\xff\xff\x7f"):
        with pytest.raises(CheckpointError, match="truncated"):
            load_inert(io.BytesIO(b"\x80\x04" + body + b"."))
    assert load_inert(io.BytesIO(b"\x80\x04}r\xff\xff\xff\xff.")) == {}


def test_deep_nesting_does_not_recurse():
    """A pickle nested a hundred thousand deep is read without using the stack."""
    loaded = load_inert(io.BytesIO(b"\x80\x02)" + b"\x85" * 100_000 + b"."))
    assert isinstance(loaded, tuple)


def test_endless_opcodes_are_refused(monkeypatch):
    """A pickle of more opcodes than any state dict has is refused instead of filling memory."""
    monkeypatch.setattr("model_store.torch_pickle.OPCODES_MAX", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 opcodes"):
        load_inert(io.BytesIO(b"\x80\x02" + b"N" * 2000 + b"."))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    )
)
def test_plain_data_reads_as_the_standard_unpickler_reads_it(value):
    """Lists, tuples, dictionaries, strings and numbers come back as the standard unpickler gives them."""
    for protocol in (2, 3, 4, 5):
        assert load_inert(io.BytesIO(pickle.dumps(value, protocol))) == value


def test_a_tensor_is_described_and_not_built():
    """A saved tensor becomes a description of where its numbers are."""
    main_pickle = torch_files.legacy_file({"w": torch_files.tensor(np.zeros((2, 3), np.float32), "k")})
    stream = io.BytesIO(main_pickle)
    for _ in range(3):
        load_inert(stream)
    spec = load_inert(stream)["w"]
    assert isinstance(spec, TensorSpec)
    assert (spec.storage.key, spec.storage.dtype, spec.storage.element_count) == ("k", "float32", 6)
    assert (spec.offset, spec.shape, spec.strides) == (0, (2, 3), (3, 1))


@given(st.binary(max_size=400))
def test_arbitrary_pickles_are_read_or_refused(body):
    """Arbitrary bytes give data or a CheckpointError, never another exception."""
    with contextlib.suppress(CheckpointError):
        load_inert(io.BytesIO(b"\x80\x04" + body))
