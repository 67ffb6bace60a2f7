from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.pictures import ORIENTATIONS, as_stored, gradient_rgb
from training.data.sampling.images import Memory, UnreadableImage, read_image

TURNED_QUARTER = 6


def _picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _turned(path: Path, picture: np.ndarray, orientation: int = TURNED_QUARTER) -> None:
    """Save with metadata that tell a viewer to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture[..., ::-1].copy()).save(path, exif=exif)


def test_read_image__gives_bgr_pixels(tmp_path: Path) -> None:
    picture = _picture(20, 30)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (20, 30), upright=False), picture)


def test_read_image__grey_images_have_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), _picture(20, 30)[..., 0])
    assert read_image(tmp_path / "a.png", (20, 30), upright=False).shape == (20, 30, 3)


def test_read_image__cannot_be_written_to(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), _picture(20, 30))
    assert not read_image(tmp_path / "a.png", (20, 30), upright=False).flags.writeable


def test_read_image__ignores_the_orientation_that_annotations_ignore(tmp_path: Path) -> None:
    picture = _picture(20, 30)
    _turned(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (20, 30), upright=False), picture)


def test_read_image__applies_the_orientation_that_annotations_count_with(tmp_path: Path) -> None:
    picture = _picture(20, 30)
    _turned(tmp_path / "a.jpg", picture)
    upright = read_image(tmp_path / "a.jpg", (30, 20), upright=False)
    stored = cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(upright, cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_read_image__shows_square_pictures_upright(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    picture = gradient_rgb(32, 32)
    path = tmp_path / f"a{suffix}"
    _turned(path, as_stored(picture, orientation)[..., ::-1], orientation)

    read = read_image(path, (32, 32), upright=True)[..., ::-1]

    # What separates a picture from its turned self is much more than what compression does.
    assert np.abs(read.astype(int) - picture).mean() < 5


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_read_image__shows_square_pictures_as_stored_where_annotations_count_so(
    tmp_path: Path, orientation: int
) -> None:
    stored = _picture(32, 32)
    _turned(tmp_path / "a.png", stored, orientation)

    read = read_image(tmp_path / "a.png", (32, 32), upright=False)

    np.testing.assert_array_equal(read, stored)


def test_read_image__refuses_the_stored_size_of_an_upright_set(tmp_path: Path) -> None:
    _turned(tmp_path / "a.png", _picture(20, 30))
    with pytest.raises(UnreadableImage, match=r"a.png: 20x30 pixels, annotated as 30x20"):
        read_image(tmp_path / "a.png", (20, 30), upright=True)


def test_read_image__refuses_another_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), _picture(20, 30))
    with pytest.raises(UnreadableImage, match=r"a.png: 30x20 pixels, annotated as 40x20"):
        read_image(tmp_path / "a.png", (20, 40), upright=False)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0"])
def test_read_image__refuses_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"a.jpg: no image that can be decoded"):
        read_image(tmp_path / "a.jpg", (20, 40), upright=False)


def test_read_image__says_that_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"gone.jpg: No such file"):
        read_image(tmp_path / "gone.jpg", (20, 40), upright=False)


def test_memory__forgets_what_was_used_longest_ago() -> None:
    memory: Memory[str] = Memory(10)
    memory.put(1, "a", 4)
    memory.put(2, "b", 4)
    memory.get(1)
    memory.put(3, "c", 4)
    assert [memory.get(key) for key in (1, 2, 3)] == ["a", None, "c"]


def test_memory__never_holds_more_than_it_may() -> None:
    memory: Memory[int] = Memory(100)
    sizes = np.random.default_rng(0).integers(1, 120, 200).tolist()
    for key, size in enumerate(sizes):
        memory.put(key, size, size)
        assert memory.num_bytes <= 100
    held = [value for key in range(200) if (value := memory.get(key)) is not None]
    assert sum(held) == memory.num_bytes


def test_memory__does_not_take_what_is_larger_than_all_of_it() -> None:
    memory: Memory[str] = Memory(10)
    memory.put(1, "a", 4)
    memory.put(2, "b", 11)
    assert memory.get(1) == "a"
    assert memory.get(2) is None
