"""A pickle read as data: nothing is imported, nothing is called, whatever the file says.

Python's own unpickler, restricted or not, is a machine that runs what the file asks for. This one
knows the same operations and only writes down what they ask: a name stays a `Global`, a call
stays a `Construction`. Torch-free.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from typing import IO, Any, NamedTuple, cast

#: A checkpoint of the largest variant with its optimizer has some hundred thousand operations.
MAX_OPERATIONS = 10_000_000


class BrokenPickle(ValueError):
    """Bytes that are no pickle, or one that no checkpoint contains."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle would have imported."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class PersistentId:
    """What stands for something outside of the pickle; in a checkpoint, a tensor's storage."""

    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Construction:
    """An object that the pickle would have made by calling `function`; its state is dropped."""

    function: Any
    arguments: Any


_BY_CODE = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}


class Pickle(NamedTuple):
    """What one pickle says, and every persistent id in it, wherever it stands."""

    value: Any
    persistent_ids: list[PersistentId]


def read_pickle(stream: IO[bytes] | mmap) -> Pickle:
    """Read one pickle from where `stream` stands; leaves it behind the pickle's last byte.

    Values are None, bool, int, float, str, bytes, tuple, list, dict with str keys (an OrderedDict
    too; other keys are dropped), and Global, PersistentId and Construction. A set becomes a list.
    Raises BrokenPickle.
    """
    machine = _Machine()
    try:
        for _ in range(MAX_OPERATIONS):
            name, argument = _next_operation(stream)
            if name == "STOP":
                return Pickle(machine.pop(), machine.persistent_ids)
            machine.step(name, argument)
    except BrokenPickle:
        raise
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        # Cut and malformed bytes show in several ways.
        raise BrokenPickle(f"not a whole pickle: {str(error)[:200]}") from error
    raise BrokenPickle(f"a pickle of more than {MAX_OPERATIONS} operations")


def _next_operation(stream: IO[bytes] | mmap) -> tuple[str, Any]:
    """Name and argument of the operation that follows in `stream`."""
    operation = _BY_CODE.get(stream.read(1))
    if operation is None:
        raise BrokenPickle("not a pickle, or one that is cut")
    if operation.name not in _KNOWN:
        raise BrokenPickle(f"the operation {operation.name} has no place in a checkpoint")
    if operation.name == "GLOBAL":
        # The library's reader would look for escapes in the names, where pickle has none.
        return operation.name, (_line(stream), _line(stream))
    if operation.arg is None:
        return operation.name, None
    return operation.name, operation.arg.reader(cast(IO[bytes], stream))


def _line(stream: IO[bytes] | mmap) -> str:
    return stream.readline().decode("utf-8").rstrip("\n")


#: Operations that push what follows them in the file.
_LITERALS = frozenset(
    {
        "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE",
        "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
        "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

_ORDERED_DICT = Global("collections", "OrderedDict")


class _Machine:
    """The stack and the memo that a pickle's operations work on."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below_marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.persistent_ids: list[PersistentId] = []

    def step(self, name: str, argument: Any) -> None:
        """Carry out one operation of those in `_KNOWN`."""
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        else:
            _OPERATIONS[name](self, argument)

    def pop(self) -> Any:
        """Take the topmost value."""
        return self._stack.pop()

    def _ignore(self, _: Any) -> None:
        """Protocol numbers and frames."""

    def _drop(self, _: Any) -> None:
        self.pop()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _mark(self, _: Any) -> None:
        self._below_marks.append(self._stack)
        self._stack = []

    def _above_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._below_marks.pop()
        return values

    def _drop_to_mark(self, _: Any) -> None:
        self._above_mark()

    def _put(self, index: Any) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: Any) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]
        self._stack.append(tuple(reversed(values)))

    def _tuple_from_mark(self, _: Any) -> None:
        values = self._above_mark()
        self._stack.append(tuple(values))

    def _list_from_mark(self, _: Any) -> None:
        values = self._above_mark()
        self._stack.append(values)

    def _dict_from_mark(self, _: Any) -> None:
        values = self._above_mark()
        self._stack.append({})
        self._assign(values)

    def _append(self, _: Any) -> None:
        self._extend([self.pop()])

    def _append_many(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _extend(self, values: list[Any]) -> None:
        # Onto anything else (an object with an append of its own) the values are dropped.
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)

    def _set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._assign([key, value])

    def _set_items(self, _: Any) -> None:
        self._assign(self._above_mark())

    def _assign(self, keys_and_values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            return
        for key, value in zip(keys_and_values[0::2], keys_and_values[1::2], strict=True):
            # Names in a checkpoint are strings. Hashing others could be made to take forever.
            if isinstance(key, str):
                target[key] = value

    def _global(self, argument: Any) -> None:
        module, name = argument
        self._stack.append(Global(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise BrokenPickle("a name to import that is no text")
        self._stack.append(Global(module, name))

    def _persistent_id(self, _: Any) -> None:
        found = PersistentId(self.pop())
        self.persistent_ids.append(found)
        self._stack.append(found)

    def _construct(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        made: Any = Construction(function, arguments)
        if isinstance(function, Global) and function == _ORDERED_DICT:
            made = {}
        self._stack.append(made)

    def _construct_with_keywords(self, _: Any) -> None:
        self.pop()
        self._construct(None)

    def _build(self, _: Any) -> None:
        self.pop()  # the state; the object below it stays as it is


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine._ignore,
    "FRAME": _Machine._ignore,
    "POP": _Machine._drop,
    "DUP": _Machine._duplicate,
    "MARK": _Machine._mark,
    "POP_MARK": _Machine._drop_to_mark,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": _Machine._tuple_from_mark,
    "LIST": _Machine._list_from_mark,
    "FROZENSET": _Machine._list_from_mark,
    "DICT": _Machine._dict_from_mark,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._append_many,
    "ADDITEMS": _Machine._append_many,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "BINPERSID": _Machine._persistent_id,
    "REDUCE": _Machine._construct,
    "NEWOBJ": _Machine._construct,
    "NEWOBJ_EX": _Machine._construct_with_keywords,
    "BUILD": _Machine._build,
}

_KNOWN = frozenset({"STOP", *_LITERALS, *_CONSTANTS, *_TUPLES, *_OPERATIONS})
