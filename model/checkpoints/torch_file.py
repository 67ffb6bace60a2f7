"""Reads what `torch.save` wrote, in both of its layouts, without running anything in it.

The layouts: a zip archive (`data.pkl` and one entry per storage), and the older stream of pickles
followed by the storages, which published files of 2022 still have. Every place and size that the
file claims is checked against the file before a byte is read; tensors are read when asked for.
"""

import mmap
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.inert_pickle import (
    BrokenPickle,
    Construction,
    Global,
    PersistentId,
    read_pickle,
)


class UnreadableCheckpoint(ValueError):
    """A file that is no checkpoint, or a damaged one."""


@dataclass(frozen=True)
class Storage:
    """Where the elements of one or more tensors lie in the file."""

    begin: int
    num_bytes: int


@dataclass(frozen=True)
class TorchFile:
    """A saved object as plain containers, and the means to read its tensors."""

    content: Any
    _storages: Mapping[str, Storage]
    _bytes: mmap.mmap

    def tensors(self, value: Any) -> dict[str, Tensor]:
        """Those entries of the dict `value` that are tensors, read into memory.

        Tensors that share a storage share it here too. Raises UnreadableCheckpoint for a tensor
        that its storage cannot hold.
        """
        if not isinstance(value, dict):
            return {}
        loaded: dict[str, Tensor] = {}
        return {
            name: self._tensor(name, rebuild, loaded)
            for name, item in value.items()
            if (rebuild := _tensor_rebuild(item)) is not None
        }

    def _tensor(self, name: str, rebuild: Construction, loaded: dict[str, Tensor]) -> Tensor:
        match rebuild.arguments:
            case (PersistentId(("storage", Global() as kind, str() as key, *_)), *place):
                pass
            case _:
                raise UnreadableCheckpoint(f"the tensor '{name}' is stored in an unknown way")
        dtype = _DTYPES.get(kind)
        if dtype is None:
            raise UnreadableCheckpoint(f"the tensor '{name}' has the unknown type {kind.name}")
        if key not in loaded:
            loaded[key] = self._elements(name, key, dtype)
        flat = loaded[key]
        match place:
            case (int() as offset, tuple() as shape, tuple() as strides, *_) if (
                flat.dtype == dtype and _lies_within(flat.numel(), offset, shape, strides)
            ):
                return flat.as_strided(shape, strides, offset)
        raise UnreadableCheckpoint(f"the tensor '{name}' does not fit the storage that it names")

    def _elements(self, name: str, key: str, dtype: torch.dtype) -> Tensor:
        storage = self._storages.get(key)
        if storage is None:
            raise UnreadableCheckpoint(f"the data of the tensor '{name}' is missing")
        count = storage.num_bytes // dtype.itemsize
        if count == 0:
            return torch.empty(0, dtype=dtype)
        # A copy, for storages stand at odd places in the stream, and the map is read-only.
        with memoryview(self._bytes) as view:
            raw = bytearray(view[storage.begin : storage.begin + count * dtype.itemsize])
        return torch.frombuffer(raw, dtype=dtype)


_DTYPES = {
    Global("torch", f"{kind}Storage"): dtype
    for kind, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
} | {Global("torch.storage", "UntypedStorage"): torch.uint8}

_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 2**40


def _tensor_rebuild(value: Any) -> Construction | None:
    """The call that rebuilds a tensor, out of the one for a parameter where it is one."""
    match value:
        case Construction(
            Global("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"),
            (inner, *_),
        ):
            value = inner
    match value:
        case Construction(Global("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"), _):
            return value
    return None


def _lies_within(
    num_elements: int, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]
) -> bool:
    """Whether a view touches only the elements 0 .. num_elements - 1."""
    steps = (*shape, *strides, offset)
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        return False
    if not all(isinstance(step, int) and 0 <= step < _MAX_ELEMENTS for step in steps):
        return False
    if 0 in shape:
        return offset <= num_elements
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    return last < num_elements


def read_torch_file(path: Path) -> TorchFile:
    """Read what `torch.save` wrote. Raises UnreadableCheckpoint, naming the file and the reason."""
    try:
        return _read(path)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path}: cannot be read: {error.strerror}") from error
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path}: {error}") from error


def _read(path: Path) -> TorchFile:
    if path.exists() and not path.is_file():
        raise UnreadableCheckpoint("it is a folder" if path.is_dir() else "it is no regular file")
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise UnreadableCheckpoint("the file is empty")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if _is_zip(content):
        return _read_zip(content, path)
    return _read_stream(content)


def _is_zip(content: mmap.mmap) -> bool:
    return content[:4] == b"PK\x03\x04"


# ------------------------------------------------------------------------------ the zip archive


def _read_zip(content: mmap.mmap, path: Path) -> TorchFile:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise UnreadableCheckpoint("the archive is cut or damaged; fetch the file again") from error
    places = {entry.filename: _place(content, entry) for entry in entries}
    if sum(place.num_bytes for place in places.values()) > len(content):
        raise UnreadableCheckpoint("its entries overlap, which torch.save never does")
    root = _archive_root(places)
    if _bytes_at(content, places.get(f"{root}byteorder")) == b"big":
        raise UnreadableCheckpoint("it was written on a big-endian machine, which is not supported")
    pickle_place = places[f"{root}data.pkl"]
    prefix = f"{root}data/"
    return TorchFile(
        content=_read_cut_pickle(content, pickle_place),
        _storages={
            name.removeprefix(prefix): place
            for name, place in places.items()
            if name.startswith(prefix)
        },
        _bytes=content,
    )


def _archive_root(names: Mapping[str, object]) -> str:
    """The folder in the archive that holds everything, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UnreadableCheckpoint("it is a zip archive, but not one that torch.save wrote")
    if f"{roots[0]}constants.pkl" in names:
        raise UnreadableCheckpoint("it is a TorchScript program, not a checkpoint")
    return roots[0]


_LOCAL_HEADER = struct.Struct("<4s22xHH")


def _place(content: mmap.mmap, entry: zipfile.ZipInfo) -> Storage:
    """Where an entry's bytes lie. torch never compresses; what is compressed may be a zip bomb."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise UnreadableCheckpoint("its entries are compressed, which torch.save never does")
    header = content[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size]
    if entry.header_offset < 0 or len(header) < _LOCAL_HEADER.size:
        raise UnreadableCheckpoint("the archive is cut or damaged; fetch the file again")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    begin = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if begin + entry.file_size > len(content):
        raise UnreadableCheckpoint(f"its entry '{entry.filename}' is larger than the file")
    return Storage(begin, entry.file_size)


def _bytes_at(content: mmap.mmap, place: Storage | None) -> bytes:
    return content[place.begin : place.begin + place.num_bytes] if place else b""


def _read_cut_pickle(content: mmap.mmap, place: Storage) -> Any:
    content.seek(place.begin)
    try:
        value = read_pickle(content).value
    except BrokenPickle as error:
        raise UnreadableCheckpoint(f"its index is damaged: {error}") from error
    if content.tell() > place.begin + place.num_bytes:
        raise UnreadableCheckpoint("its index is damaged: it runs into other entries")
    return value


# ------------------------------------------------------------------------- the stream of pickles

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_COUNT = struct.Struct("<q")

#: How a file begins that is something else, and what it is then.
_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"<", "it is a web page: the download went wrong; fetch the file again"),
    (b"version https://git-lfs", "it is a Git LFS pointer: fetch the file itself with `git lfs`"),
    (b"\x1f\x8b", "it is a gzip archive: unpack it first"),
    (b"\x89HDF", "it is an HDF5 file, not a torch checkpoint"),
)


def _read_stream(content: mmap.mmap) -> TorchFile:
    for beginning, sentence in _OTHER_FILES:
        if content[: len(beginning)] == beginning:
            raise UnreadableCheckpoint(sentence)
    if content[257:262] == b"ustar":
        raise UnreadableCheckpoint("it has the tar layout of torch before 0.2: save it anew")
    try:
        if read_pickle(content).value != _MAGIC or read_pickle(content).value != _PROTOCOL:
            raise BrokenPickle("it does not begin as torch.save begins")
    except BrokenPickle as error:
        raise UnreadableCheckpoint("it is no torch checkpoint") from error
    try:
        system = read_pickle(content).value
        if not (isinstance(system, dict) and system.get("little_endian") is True):
            raise UnreadableCheckpoint("it was written on a big-endian machine")
        value, mentions = read_pickle(content)
        keys = read_pickle(content).value
    except BrokenPickle as error:
        raise UnreadableCheckpoint(f"the file is cut or damaged: {error}") from error
    return TorchFile(value, _streamed_storages(content, keys, _item_sizes(mentions)), content)


def _item_sizes(mentions: Iterable[PersistentId]) -> dict[str, int]:
    """Bytes per element of every storage that is mentioned."""
    sizes: dict[str, int] = {}
    for mention in mentions:
        match mention:
            case PersistentId(("storage", Global() as kind, str() as key, *_)) if kind in _DTYPES:
                sizes[key] = _DTYPES[kind].itemsize
            case _:
                raise UnreadableCheckpoint("it has tensors of an unknown type")
    return sizes


def _streamed_storages(
    content: mmap.mmap, keys: Any, item_sizes: Mapping[str, int]
) -> dict[str, Storage]:
    """The storages follow one another in the order of `keys`, each after its element count."""
    if not isinstance(keys, list):
        raise UnreadableCheckpoint("the file is damaged: no list of storages")
    storages: dict[str, Storage] = {}
    begin = content.tell()
    for key in keys:
        header = content[begin : begin + _COUNT.size]
        item_size = item_sizes.get(key) if isinstance(key, str) else None
        if len(header) < _COUNT.size or item_size is None:
            raise UnreadableCheckpoint("the file is cut or damaged; fetch it again")
        begin += _COUNT.size
        num_bytes = _COUNT.unpack(header)[0] * item_size
        if num_bytes < 0 or begin + num_bytes > len(content):
            raise UnreadableCheckpoint("the file is cut or damaged; fetch it again")
        storages[key] = Storage(begin, num_bytes)
        begin += num_bytes
    return storages
