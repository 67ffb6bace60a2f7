import io
import os
import pickle
from typing import Any

import pytest

from model.checkpoints.inert_pickle import BrokenPickle, Construction, Global, read_pickle
from tests.saved_files import Calls


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02\x82\x01.",
        b"Pkey\n.",
        b"\x80\x02K\x01g7\n.",
    ],
)
def test_inert_pickle__refuses_operations_that_no_checkpoint_has(pickled: bytes) -> None:
    with pytest.raises(BrokenPickle, match="has no place in a checkpoint"):
        read_pickle(io.BytesIO(pickled))


def test_inert_pickle__writes_down_a_call_instead_of_making_it() -> None:
    pickled = pickle.dumps(Calls(os.system, "false"), protocol=4)
    made = read_pickle(io.BytesIO(pickled)).value
    assert isinstance(made, Construction)
    assert made.function == Global("posix", "system")
    assert made.arguments == ("false",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        None, True, -(2**80), 1.5, "größe", b"\x00\xff" * 300, (), (1,), (1, 2), (1, 2, 3, 4),
        [1, [2, []]], {"a": {"b": [None]}}, [], {}, {"x": 2**31}, "a" * 300, ("t", ["u"]),
    ],
)  # fmt: skip
def test_inert_pickle__reads_plain_values_as_pickle_does(value: Any, protocol: int) -> None:
    stream = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
    if isinstance(value, bytes) and protocol < 3:
        # There, bytes are a call of a codec.
        assert isinstance(read_pickle(stream).value, Construction)
    else:
        assert read_pickle(stream).value == value
    assert stream.read() == b"rest"


def test_inert_pickle__drops_keys_that_are_no_names() -> None:
    # Hashing a tuple that doubles at every step would take for ever.
    doubled = (
        b"\x80\x02})" + b"".join(b"2\x86" for _ in range(60)) + b"K\x01sX\x01\x00\x00\x00aK\x02s."
    )
    assert read_pickle(io.BytesIO(doubled)).value == {"a": 2}


@pytest.mark.parametrize("depth", [200_000])
def test_inert_pickle__reads_deep_nesting_without_recursion(depth: int) -> None:
    assert read_pickle(io.BytesIO(b"\x80\x02)" + b"\x85" * depth + b".")).value != ()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02h\x05.",
        b"\x80\x02a.",
        b"\xff\xff",
        b"\x80\x02(.",
    ],
)
def test_inert_pickle__refuses_bytes_that_are_no_pickle(pickled: bytes) -> None:
    with pytest.raises(BrokenPickle):
        read_pickle(io.BytesIO(pickled))
