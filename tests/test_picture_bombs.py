"""Files that cost more than they weigh are refused, or decoded in the memory reserved for them."""

from pathlib import Path

import pytest

from tests.measured_decoding import Measured, measure
from tests.picture_bombs import BOMBS, inflating_zeros, png_of

SIDE = 2000

#: What the interpreter and the decoders' libraries take beside the pixels, whatever the picture.
MARGIN_BYTES = 16 << 20


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    folder = tmp_path_factory.mktemp("bombs")
    files = [folder / name for name in BOMBS]
    for file in files:
        file.write_bytes(BOMBS[file.name](SIDE))
    return dict(zip(BOMBS, measure(files, max_pixels=SIDE * SIDE), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_decode__takes_no_more_memory_than_its_header_claims(
    measured: dict[str, Measured], name: str
) -> None:
    taken = measured[name]
    assert taken.peak_bytes <= (taken.working_bytes or 0) + MARGIN_BYTES, taken


REFUSED = {
    "gif of tiny blocks",
    "png 16 bits that goes on",
    "tiff of huge tags",
}


def test_decode__sound_pictures_among_them_are_decoded(measured: dict[str, Measured]) -> None:
    refused = {name for name, taken in measured.items() if taken.outcome != "decoded"}
    assert refused == REFUSED


def test_decode__what_lies_behind_the_last_row_is_not_inflated(tmp_path: Path) -> None:
    """30 GB, which took a processor more than a minute; here they take none of its time."""
    file = tmp_path / "goes on.png"
    file.write_bytes(png_of(10, 10, 8, 2, inflating_zeros(30_000)))
    (taken,) = measure([file], max_pixels=SIDE * SIDE)
    assert taken.outcome == "decoded"
    assert taken.seconds < 15
