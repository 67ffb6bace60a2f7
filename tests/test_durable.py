import tempfile
from pathlib import Path

import pytest

from model.durable import copy_into_place


def test_copy_into_place__replaces_what_was_there(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "path"
    source.write_text("new")
    path.write_text("old, and longer")
    (tmp_path / "path.part").write_text("left by a kill")
    copy_into_place(source, path)
    assert path.read_text() == "new"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["path", "source"]


def test_copy_into_place__lasts_when_the_source_goes(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "path"
    source.write_text("new")
    copy_into_place(source, path)
    source.unlink()
    assert path.read_text() == "new"


def test_copy_into_place__from_another_file_system(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        source = Path(folder) / "source"
        source.write_text("new")
        copy_into_place(source, tmp_path / "path")
    assert (tmp_path / "path").read_text() == "new"
