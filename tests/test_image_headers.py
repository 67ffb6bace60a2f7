"""The size of an image, from the head of its file."""

from pathlib import Path

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data_sets import write_image
from tests.pictures import exif_block
from training.data.decoding import decode_file
from training.data.formats.image_headers import UnreadableImage, read_image_size, read_image_sizes


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_image_size__is_read_from_the_header(tmp_path: Path, suffix: str) -> None:
    size = read_image_size(write_image(tmp_path / f"a{suffix}", width=37, height=21))

    assert size.upright == (21, 37)


@pytest.mark.parametrize(("width", "height"), [(2**32 - 1, 9), (9, 2**21), (2**16, 2**16)])
def test_image_size__larger_than_any_image(tmp_path: Path, width: int, height: int) -> None:
    path = write_image(tmp_path / "a.png")
    stated = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    path.write_bytes(path.read_bytes()[:16] + stated + path.read_bytes()[24:])

    with pytest.raises(UnreadableImage, match=f"states {width}x{height} pixels, more than"):
        read_image_size(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_image_size__follows_the_orientation(
    tmp_path: Path, orientation: int, byte_order: str
) -> None:
    path = write_image(tmp_path / "a.jpg", width=37, height=21)
    jpeg = path.read_bytes()
    segment = b"Exif\0\0" + exif_block(orientation, byte_order)
    length = (len(segment) + 2).to_bytes(2, "big")
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + length + segment + jpeg[2:])

    decoded = cv2.imread(str(path), cv2.IMREAD_COLOR)

    assert decoded is not None
    assert read_image_size(path).upright == decoded.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_image_size__follows_the_orientation_as_decoders_do(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (37, 21)).save(path, exif=exif)

    decoded = decode_file(path)

    assert decoded is not None
    assert read_image_size(path).upright == decoded.shape[:2]


def test_image_sizes__keep_their_order_and_give_errors_in_place(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{width}.png", width=width) for width in (33, 35)]

    sizes = list(read_image_sizes([paths[0], tmp_path / "lost.png", paths[1]]))

    widths = [None if isinstance(size, UnreadableImage) else size.width for size in sizes]
    assert widths == [33, None, 35]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_image_size__damaged_files_have_a_size_or_are_refused(
    scratch: Path, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from([".jpg", ".png"]))
    whole = write_image(scratch / f"whole{suffix}").read_bytes()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, 700)] * 2)))
    path = scratch / f"damaged{suffix}"
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])

    try:
        height, width = read_image_size(path).upright
    except UnreadableImage:
        return
    assert height > 0
    assert width > 0
