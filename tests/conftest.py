"""What many tests need: the folder of recorded arrays and photographs, where there is one."""

import os
from pathlib import Path

import pytest

# As the command does (`rtmdet.py` says why); before torch is imported by any test.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with recorded reference arrays, real weights and photographs, or a skip."""
    folder = Path(os.environ.get("RTMDET_SHARED", PROJECT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"no recorded arrays at {folder} (set RTMDET_SHARED)")
    return folder
