import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.checkpoints.checkpoint_files import read_published
from model.checkpoints.torch_file import UnreadableCheckpoint
from tests.saved_files import Calls, assert_same, weights, write


class HistoryBuffer:
    """Stands for the objects of a training framework that published files carry along."""

    def __init__(self) -> None:
        self.values = np.arange(10.0)
        self.reducer = Path


class SetsState:
    """Runs its state when it is unpickled, as many real classes do."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["marker"]).touch()


# --------------------------------------------------------------------------- what torch.save wrote


@pytest.mark.parametrize("layout", ["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_read__gives_the_tensors_that_were_saved(
    tmp_path: Path, layout: str, protocol: int
) -> None:
    path = write({"state_dict": weights()}, tmp_path / "a.pth", layout=layout, protocol=protocol)
    assert_same(read_published(path).weights, weights())


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_read__takes_a_bare_state_dict_of_a_module(tmp_path: Path, layout: str) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    path = write(state, tmp_path / "a.pth", layout=layout)
    assert_same(read_published(path).weights, dict(state))


def test_read__keeps_shared_storages_shared(tmp_path: Path) -> None:
    read = read_published(write(weights(), tmp_path / "a.pth")).weights
    assert read["plain"].untyped_storage().data_ptr() == read["transposed"].data_ptr()


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_read__passes_over_foreign_objects(tmp_path: Path, layout: str) -> None:
    content = {
        "meta": {
            "time": datetime.now(UTC),
            "seed": np.float64(3.5),
            "hooks": {HistoryBuffer, len},
            "dataset_meta": {"classes": ("cat", "dog"), "palette": np.zeros((2, 3))},
        },
        "message_hub": {"log_scalars": {"loss": HistoryBuffer()}, 7: frozenset({1, 2})},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "state_dict": weights(),
    }
    read = read_published(write(content, tmp_path / "a.pth", layout=layout))
    assert_same(read.weights, weights())
    assert read.classes == ("cat", "dog")


@pytest.mark.parity
def test_read__gives_the_same_as_torch_for_real_weights(shared_folder: Path) -> None:
    path = shared_folder / "real" / "rtmdet_nano_person.pth"
    read = read_published(path)
    assert_same(read.weights, torch.load(path, weights_only=True)["state_dict"])
    assert read.classes == ("person",)


# --------------------------------------------------------------------------------- hostile pickles


def touch(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


BOMBS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda marker: Calls(os.system, f"touch '{marker}'"),
    "eval": lambda marker: Calls(eval, touch(marker)),
    "exec": lambda marker: Calls(exec, touch(marker)),
    "getattr": lambda marker: Calls(getattr, Calls(eval, touch(marker)), "__class__"),
    "setstate": SetsState,
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda bomb: bomb,
    "as the weights": lambda bomb: {"state_dict": bomb},
    "as a tensor": lambda bomb: {"state_dict": {"a": bomb}},
    "in meta": lambda bomb: {"meta": {"deep": [{"er": bomb}]}, "state_dict": weights()},
    "as the classes": lambda bomb: {"meta": {"classes": [bomb]}, "state_dict": weights()},
}


@pytest.mark.parametrize("layout", ["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb__in_a_checkpoint_never_runs(
    tmp_path: Path, bomb: str, place: str, protocol: int, layout: str
) -> None:
    marker = tmp_path / "it-ran"
    content = PLACES[place](BOMBS[bomb](marker))
    path = write(content, tmp_path / "a.pth", layout=layout, protocol=protocol)
    if place in ("in meta", "as the classes"):
        read = read_published(path)
        assert_same(read.weights, weights())
        assert read.classes is None
    else:
        with pytest.raises(UnreadableCheckpoint, match="it holds no"):
            read_published(path)
    assert not marker.exists()


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb__of_these_tests_would_run_elsewhere(tmp_path: Path, bomb: str) -> None:
    marker = tmp_path / "it-ran"
    path = write(BOMBS[bomb](marker), tmp_path / "a.pth")
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb__as_a_plain_pickle_is_no_checkpoint(tmp_path: Path, bomb: str) -> None:
    marker = tmp_path / "it-ran"
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps(BOMBS[bomb](marker)))
    with pytest.raises(UnreadableCheckpoint, match="no torch checkpoint"):
        read_published(path)
    assert not marker.exists()


# ------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_read__refuses_a_cut_file_wherever_it_is_cut(tmp_path: Path, layout: str) -> None:
    whole = write({"state_dict": weights()}, tmp_path / "a.pth", layout=layout).read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(1, len(whole), 97):
        cut.write_bytes(whole[:length])
        with pytest.raises(UnreadableCheckpoint, match=r"cut\.pth"):
            read_published(cut)


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_read__of_changed_bytes_reads_or_refuses(tmp_path: Path, layout: str) -> None:
    content = {"meta": {"classes": ("a",)}, "state_dict": weights()}
    whole = write(content, tmp_path / "a.pth", layout=layout).read_bytes()
    changed = tmp_path / "changed.pth"
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        changed.write_bytes(damaged)
        try:
            read_published(changed)
        except UnreadableCheckpoint:
            refused += 1
    assert 10 < refused < 400


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"not a checkpoint at all", "no torch checkpoint"),
        (pickle.dumps({"state_dict": {}}), "no torch checkpoint"),
        (b"PK\x03\x04 and then nothing", "cut or damaged"),
    ],
)
def test_read__says_what_a_file_is_that_is_no_checkpoint(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=sentence) as caught:
        read_published(path)
    assert str(path) in str(caught.value)


def test_read__refuses_the_tar_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(UnreadableCheckpoint, match="tar layout"):
        read_published(path)


def test_read__refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for name, sentence in {
        "": "is a folder",
        "pipe.pth": "no regular file",
        "missing.pth": "No such file",
    }.items():
        with pytest.raises(UnreadableCheckpoint, match=sentence):
            read_published(tmp_path / name)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"state_dict": 3}, [1], "text", None])
def test_read__refuses_a_file_without_weights(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UnreadableCheckpoint, match="it holds no"):
        read_published(write(content, tmp_path / "a.pth"))


def archive(
    path: Path, entries: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_read__refuses_other_zip_archives(tmp_path: Path) -> None:
    entries = {"word/document.xml": b"<document/>"}
    with pytest.raises(UnreadableCheckpoint, match="not one that torch"):
        read_published(archive(tmp_path / "a.pth", entries))


def test_read__refuses_programs(tmp_path: Path) -> None:
    entries = {"a/data.pkl": b"\x80\x02}.", "a/constants.pkl": b"\x80\x02}."}
    with pytest.raises(UnreadableCheckpoint, match="TorchScript"):
        read_published(archive(tmp_path / "a.pth", entries))


def test_read__refuses_big_endian_weights(tmp_path: Path) -> None:
    entries = entries_of(write(weights(), tmp_path / "a.pth")) | {"a/byteorder": b"big"}
    with pytest.raises(UnreadableCheckpoint, match="big-endian"):
        read_published(archive(tmp_path / "b.pth", entries))


def test_read__refuses_compressed_entries_before_unpacking_them(tmp_path: Path) -> None:
    entries = entries_of(write(weights(), tmp_path / "a.pth")) | {"a/data/0": bytes(10**7)}
    bomb = archive(tmp_path / "b.pth", entries, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10**5
    with pytest.raises(UnreadableCheckpoint, match="compressed"):
        read_published(bomb)


def test_read__refuses_entries_that_claim_more_than_the_file_has(tmp_path: Path) -> None:
    path = write({"a": torch.ones(1000)}, tmp_path / "a.pth")
    content = path.read_bytes()
    size = struct.pack("<II", 4000, 4000)
    assert content.count(size) >= 1
    path.write_bytes(content.replace(size, struct.pack("<II", 2**31, 2**31)))
    with pytest.raises(UnreadableCheckpoint, match=r"larger than the file|cut or damaged"):
        read_published(path)


@pytest.mark.parametrize("layout", ["zip", "stream"])
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (10**13,), (1,)),
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 3), (100, 1)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 3), (3,)),
        (7, (0,), (1,)),
        (0, (2.0,), (1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_read__refuses_tensors_beyond_their_storage(
    tmp_path: Path, layout: str, offset: Any, shape: Any, strides: Any
) -> None:
    class Claims:
        def __reduce__(self) -> Any:
            storage = torch.ones(6)._typed_storage()
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, strides, False, {})

    path = write({"a": Claims()}, tmp_path / "a.pth", layout=layout)
    with pytest.raises(UnreadableCheckpoint, match="does not fit the storage"):
        read_published(path)


def test_read__costs_no_memory_for_a_tensor_that_only_claims_to_be_large(tmp_path: Path) -> None:
    path = write({"a": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "a.pth")
    claimed = read_published(path).weights["a"]
    assert claimed.shape == (10**6, 10**6)
    assert claimed.untyped_storage().nbytes() == 4


def test_read__refuses_a_tensor_without_its_data(tmp_path: Path) -> None:
    entries = entries_of(write(weights(), tmp_path / "a.pth"))
    del entries["a/data/0"]
    with pytest.raises(UnreadableCheckpoint, match="data of the tensor 'plain' is missing"):
        read_published(archive(tmp_path / "b.pth", entries))


def test_read__refuses_a_tensor_of_an_unknown_type(tmp_path: Path) -> None:
    entries = entries_of(write({"a": torch.ones(2)}, tmp_path / "a.pth"))
    entries["a/data.pkl"] = entries["a/data.pkl"].replace(b"FloatStorage", b"QuarkStorage")
    with pytest.raises(UnreadableCheckpoint, match="unknown type QuarkStorage"):
        read_published(archive(tmp_path / "b.pth", entries))


def test_read__refuses_a_tensor_that_is_stored_in_no_storage(tmp_path: Path) -> None:
    rebuilt = Calls(torch._utils._rebuild_tensor_v2, "nothing", 0, (1,), (1,), False, {})
    with pytest.raises(UnreadableCheckpoint, match="stored in an unknown way"):
        read_published(write({"a": rebuilt}, tmp_path / "a.pth"))


def test_read__leaves_tensors_that_nobody_asks_for(tmp_path: Path) -> None:
    damaged = Calls(torch._utils._rebuild_tensor_v2, "nothing", 0, (1,), (1,), False, {})
    content = {"state_dict": {"a": torch.ones(2)}, "optimizer": {"a": damaged}}
    read = read_published(write(content, tmp_path / "a.pth"))
    assert_same(read.weights, {"a": torch.ones(2)})
