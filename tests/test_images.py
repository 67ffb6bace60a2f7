"""Decode policy: each rule of `service.codecs.images` against the pixels that made the file."""

import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.codecs.image_formats import gif, png
from service.codecs.image_formats.pixels import over_white as composite_over_white
from service.codecs.image_formats.pixels import to_eight_bits
from service.codecs.images import DecodedImage, ImageLimits, decode, probe
from service.errors import (
    ImageTooLarge,
    ServiceError,
    UndecodableImage,
    UnsupportedMediaType,
)
from tests.picture_bombs import BOMBS, png_of, tiff_with
from tests.pictures import (
    JPEG_LIKE_PHOTOGRAPH,
    ORIENTATIONS,
    WEBP_EXACT,
    as_stored,
    encode,
    encode_sixteen_bits,
    exif_block,
    gradient_rgb,
    jpeg_with_segment,
    noise,
    one_of_each_format,
    over_white,
    png_chunk,
    png_claiming,
    png_with_chunk,
    sixteen_bit_noise,
    tiff_of,
    tiff_with_tag,
    with_bytes,
)

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)
#: Quantisation of a smooth picture in a JPEG of quality 95, or in a lossy WebP.
LOSSY = 6


def assert_shows(data: bytes, rgb: NDArray[np.uint8], tolerance: int = 0) -> DecodedImage:
    """The file decodes to these pixels."""
    image = decode(data, LIMITS)
    assert image.pixels_bgr.dtype == np.uint8
    assert image.pixels_bgr.flags.c_contiguous
    assert image.pixels_bgr.shape == rgb.shape
    assert (image.height, image.width) == rgb.shape[:2]
    difference = np.abs(image.pixels_bgr[:, :, ::-1].astype(int) - rgb)
    assert difference.max() <= tolerance
    return image


def three_channels(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


# What a viewer shows


@pytest.mark.parametrize(
    ("image_format", "options", "tolerance"),
    [
        ("JPEG", JPEG_LIKE_PHOTOGRAPH, LOSSY),
        ("JPEG", {**JPEG_LIKE_PHOTOGRAPH, "progressive": True}, LOSSY),
        ("JPEG", {**JPEG_LIKE_PHOTOGRAPH, "keep_rgb": True}, LOSSY),
        ("PNG", {}, 0),
        ("WEBP", WEBP_EXACT, 0),
        ("WEBP", {"quality": 98}, 2 * LOSSY),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "packbits"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 2 * LOSSY),
    ],
)
def test_decode__colour(image_format: str, options: dict[str, object], tolerance: int) -> None:
    rgb = gradient_rgb()
    image = assert_shows(encode(rgb, image_format, **options), rgb, tolerance)
    assert image.header.format == image_format.lower()
    assert (image.header.width, image.header.height) == (40, 24)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_decode__orientation(image_format: str, orientation: int) -> None:
    rgb = gradient_rgb()
    stored = as_stored(rgb, orientation)
    options: dict[str, object] = {
        "JPEG": JPEG_LIKE_PHOTOGRAPH | {"exif": b"Exif\0\0" + exif_block(orientation)},
        "PNG": {"exif": exif_block(orientation, byte_order=">")},
        "WEBP": WEBP_EXACT | {"exif": exif_block(orientation)},
        "TIFF": {"tiffinfo": {274: orientation}},
    }[image_format]
    tolerance = LOSSY if image_format == "JPEG" else 0
    image = assert_shows(encode(stored, image_format, **options), rgb, tolerance)
    assert (image.header.height, image.header.width) == stored.shape[:2]
    assert image.header.upright_size == (40, 24)
    assert image.header.orientation == orientation


@pytest.mark.parametrize("exif", [b"", b"II*\0", exif_block(9), exif_block(0), b"\xff" * 40])
def test_decode__nonsense_in_exif_is_ignored(exif: bytes) -> None:
    rgb = gradient_rgb()
    file = jpeg_with_segment(encode(rgb, "JPEG", **JPEG_LIKE_PHOTOGRAPH), 0xE1, b"Exif\0\0" + exif)
    assert assert_shows(file, rgb, LOSSY).header.orientation == 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_decode__grey(image_format: str) -> None:
    grey = gradient_rgb()[:, :, 0]
    options = JPEG_LIKE_PHOTOGRAPH if image_format == "JPEG" else {}
    tolerance = LOSSY if image_format == "JPEG" else 0
    assert_shows(encode(grey, image_format, **options), three_channels(grey), tolerance)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"}), ("GIF", {})],
)
def test_decode__one_bit(image_format: str, options: dict[str, object]) -> None:
    picture = Image.fromarray(gradient_rgb()).convert("1")
    assert_shows(encode(picture, image_format, **options), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_decode__palette(image_format: str) -> None:
    picture = Image.fromarray(gradient_rgb()).quantize(16)
    assert_shows(encode(picture, image_format), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_decode__transparent_palette_entry(image_format: str) -> None:
    picture = Image.fromarray(gradient_rgb()).quantize(16)
    expected = np.array(picture.convert("RGB"))
    expected[np.asarray(picture) == 3] = 255
    assert_shows(encode(picture, image_format, transparency=3), expected)


def test_decode__palette_with_alpha_of_each_entry() -> None:
    picture = Image.fromarray(gradient_rgb()).quantize(16)
    alphas = np.arange(0, 256, 16, dtype=np.uint8)
    expected = over_white(np.asarray(picture.convert("RGB")), alphas[np.asarray(picture)])
    assert_shows(encode(picture, "PNG", transparency=alphas.tobytes()), expected)


@pytest.mark.parametrize(
    ("image_format", "options"), [("PNG", {}), ("WEBP", WEBP_EXACT), ("TIFF", {})]
)
def test_decode__alpha_lies_over_white(image_format: str, options: dict[str, object]) -> None:
    rgb, alpha = gradient_rgb(), noise((24, 40))
    file = encode(np.dstack([rgb, alpha]), image_format, **options)
    assert_shows(file, over_white(rgb, alpha))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_decode__grey_with_alpha(image_format: str) -> None:
    grey, alpha = gradient_rgb()[:, :, 0], noise((24, 40))
    picture = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))
    assert_shows(encode(picture, image_format), over_white(three_channels(grey), alpha))


def test_decode__bmp_with_alpha_mask() -> None:
    rgb, alpha = gradient_rgb(), noise((24, 40))
    bgra = np.dstack([rgb[::-1, :, ::-1], alpha[::-1]])
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHI", 108, 40, 24, 1, 32, 3) + bytes(20) + masks + b"BGRs" + bytes(48)
    file = b"BM" + struct.pack("<IHHI", 122 + bgra.size, 0, 0, 122) + header + bgra.tobytes()
    assert_shows(file, over_white(rgb, alpha))


def test_decode__bmp_from_top_to_bottom() -> None:
    rgb = gradient_rgb()
    file = with_bytes(encode(rgb, "BMP"), 22, struct.pack("<i", -24))
    assert_shows(file, rgb[::-1])


@pytest.mark.parametrize("num_channels", [1, 3, 4])
@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_decode__sixteen_bits_are_scaled_and_rounded(extension: str, num_channels: int) -> None:
    pixels = sixteen_bit_noise((7, 9, num_channels))
    pixels[:, :, 3:] = 65535
    scaled = np.round(pixels / 65535 * 255).astype(np.uint8)
    rgb = three_channels(scaled[:, :, 0]) if num_channels == 1 else scaled[:, :, 2::-1]
    assert_shows(encode_sixteen_bits(pixels, extension), rgb)


def test_decode__sixteen_bit_alpha() -> None:
    pixels = sixteen_bit_noise((7, 9, 4))
    scaled = np.round(pixels / 65535 * 255).astype(np.uint8)
    expected = over_white(scaled[:, :, 2::-1], scaled[:, :, 3])
    assert_shows(encode_sixteen_bits(pixels, ".png"), expected)


def test_to_eight_bits__every_value() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = (values.astype(np.int64) * 2 * 255 + 65535) // (2 * 65535)
    np.testing.assert_array_equal(to_eight_bits(values), expected)


def test_over_white__every_colour_and_alpha() -> None:
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    bgra = np.dstack([colour, colour, colour, alpha]).astype(np.uint8)
    # Rounded in whole numbers; the sum of the two products is never halfway.
    expected = (2 * (colour * alpha + 255 * (255 - alpha)) + 255) // 510
    np.testing.assert_array_equal(composite_over_white(bgra)[:, :, 1], expected)


@pytest.mark.parametrize("sixteen_bits", [False, True])
def test_decode__tiff_whose_zero_is_white(sixteen_bits: bool) -> None:
    grey = gradient_rgb()[:, :, 0]
    stored = grey.astype(np.uint16) * 257 if sixteen_bits else grey
    file = tiff_with_tag(encode(stored, "TIFF"), tag=262, value=0)
    assert_shows(file, three_channels(255 - grey))


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_decode__cmyk(image_format: str) -> None:
    rgb = gradient_rgb()
    options = JPEG_LIKE_PHOTOGRAPH if image_format == "JPEG" else {}
    file = encode(Image.fromarray(rgb).convert("CMYK"), image_format, **options)
    assert_shows(file, rgb, LOSSY)


def test_decode__ycck_jpeg() -> None:
    rgb = gradient_rgb()
    # Adobe stores YCbCr of the inks, and black inverted; Pillow inverts all that it is given.
    inks = Image.fromarray(255 - rgb).convert("YCbCr").split()
    no_black = Image.new("L", (40, 24), 0)
    inverted = [channel.point(lambda value: 255 - value) for channel in inks]
    file = encode(Image.merge("CMYK", (*inverted, no_black)), "JPEG", **JPEG_LIKE_PHOTOGRAPH)
    transform_at, ycck = file.index(b"Adobe") + 11, 2
    assert_shows(with_bytes(file, transform_at, bytes((ycck,))), rgb, LOSSY)


@pytest.mark.parametrize(
    ("image_format", "options"), [("PNG", {}), ("WEBP", WEBP_EXACT), ("GIF", {})]
)
def test_decode__first_frame_of_animation(image_format: str, options: dict[str, object]) -> None:
    first = Image.fromarray(gradient_rgb()).quantize(16)
    second = Image.fromarray(gradient_rgb()[::-1].copy()).quantize(16)
    if image_format != "GIF":
        first, second = first.convert("RGB"), second.convert("RGB")
    file = encode(first, image_format, save_all=True, append_images=[second], **options)
    image = assert_shows(file, np.asarray(first.convert("RGB")))
    assert image.header.animated
    assert not probe(encode(first, image_format), LIMITS).animated


def test_decode__first_page_of_tiff() -> None:
    rgb = gradient_rgb()
    file = encode(rgb, "TIFF", save_all=True, append_images=[Image.fromarray(noise((9, 9, 3)))])
    assert_shows(file, rgb)


def test_decode__gif_frame_smaller_than_the_screen() -> None:
    grey = gradient_rgb(6, 4)[:, :, 0]
    file = encode(grey, "GIF")
    file = with_bytes(file, 6, struct.pack("<HH", 10, 9))
    file = with_bytes(
        file, file.index(b"," + struct.pack("<HHHH", 0, 0, 6, 4)) + 1, struct.pack("<HH", 3, 2)
    )
    expected = np.full((9, 10, 3), 255, np.uint8)
    expected[2:6, 3:9] = grey[:, :, None]
    assert_shows(file, expected)


def test_decode__webp_frame_smaller_than_the_canvas() -> None:
    rgb = gradient_rgb(20, 14)
    still = encode(rgb, "WEBP", **WEBP_EXACT)
    bitstream = still[12:]

    def chunk(kind: bytes, contents: bytes) -> bytes:
        return kind + struct.pack("<I", len(contents)) + contents

    def sizes(*values: int) -> bytes:
        return b"".join(value.to_bytes(3, "little") for value in values)

    frame = sizes(4 // 2, 6 // 2, 20 - 1, 14 - 1, 0) + b"\0" + bitstream
    file = chunk(
        b"RIFF",
        b"WEBP"
        + chunk(b"VP8X", bytes((2, 0, 0, 0)) + sizes(30 - 1, 25 - 1))
        + chunk(b"ANIM", bytes(6))
        + chunk(b"ANMF", frame),
    )
    expected = np.full((25, 30, 3), 255, np.uint8)
    expected[6:20, 4:24] = rgb
    assert_shows(file, expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1, 4), (4, 1), (2, 3)])
@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_decode__one_pixel_wide_or_high(image_format: str, shape: tuple[int, int]) -> None:
    options = WEBP_EXACT if image_format == "WEBP" else {}
    rgb, alpha = noise((*shape, 3)), noise(shape, seed=1)
    assert_shows(encode(rgb, image_format, **options), rgb)
    if image_format != "BMP":
        rgba = np.dstack([rgb, alpha])
        assert_shows(encode(rgba, image_format, **options), over_white(rgb, alpha))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("JPEG", JPEG_LIKE_PHOTOGRAPH), ("PNG", {}), ("WEBP", WEBP_EXACT), ("TIFF", {})],
)
def test_decode__icc_profile_is_ignored_and_told(
    image_format: str, options: dict[str, object]
) -> None:
    rgb = gradient_rgb()
    file = encode(rgb, image_format, icc_profile=b"no real profile" * 10, **options)
    image = assert_shows(file, rgb, LOSSY if image_format == "JPEG" else 0)
    assert image.header.has_icc_profile
    assert not probe(encode(rgb, image_format, **options), LIMITS).has_icc_profile


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_decode__bytes_after_the_end(image_format: str) -> None:
    picture = Image.fromarray(gradient_rgb()).quantize(16)
    file = encode(picture if image_format == "GIF" else picture.convert("RGB"), image_format)
    expected = decode(file, LIMITS).pixels_bgr[:, :, ::-1]
    assert_shows(file + b"\xff\xd8 a preview, a clip, garbage", expected)


def test_probe__tells_what_decode_tells() -> None:
    for name, file in one_of_each_format().items():
        header = probe(file, LIMITS)
        assert header == decode(file, LIMITS).header, name
        assert header.animated == ("animated" in name)


# What is refused


def test_probe__no_bytes() -> None:
    with pytest.raises(UndecodableImage, match="empty"):
        probe(b"", LIMITS)


@pytest.mark.parametrize("data", [b"\0", b"hello", b"<html></html>", bytes(1000), b"\xff\xd8"])
def test_probe__no_image(data: bytes) -> None:
    with pytest.raises(UndecodableImage, match="send one of JPEG, PNG"):
        probe(data, LIMITS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic" + bytes(40)),
        ("HEIC", b"\0\0\0\x18ftypmif1" + bytes(40)),
        ("AVIF", b"\0\0\0\x18ftypavif" + bytes(40)),
        ("JPEG XL", b"\xff\x0a" + bytes(40)),
        ("JPEG 2000", encode(gradient_rgb(), "JPEG2000")),
        ("Big TIFF", b"II+\0\x08\0\0\0" + bytes(40)),
        ("PDF", b"%PDF-1.7"),
        ("SVG", b"<?xml version='1.0'?><svg/>"),
    ],
)
def test_probe__format_that_is_not_served(name: str, data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"{name} is not served: convert .* to JPEG"):
        probe(data, LIMITS)


def test_probe__kinds_of_tiff_that_are_not_served() -> None:
    grey = gradient_rgb()[:, :, 0]
    for mode in ("F", "I"):
        with pytest.raises(UnsupportedMediaType, match="signed or floating-point"):
            probe(encode(Image.fromarray(grey).convert(mode), "TIFF"), LIMITS)
    with pytest.raises(UnsupportedMediaType, match="colour space 8"):
        probe(encode(Image.fromarray(gradient_rgb()).convert("LAB"), "TIFF"), LIMITS)


@pytest.mark.parametrize(
    ("marker", "precision", "num_components"), [(0xC3, 8, 3), (0xC1, 12, 3), (0xC0, 8, 2)]
)
def test_probe__kinds_of_jpeg_that_are_not_served(
    marker: int, precision: int, num_components: int
) -> None:
    frame = struct.pack(">BHHB", precision, 24, 40, num_components) + bytes(3 * num_components)
    file = b"\xff\xd8" + struct.pack(">BBH", 0xFF, marker, 2 + len(frame)) + frame
    with pytest.raises(UnsupportedMediaType, match="JPEG of"):
        probe(file, LIMITS)


def test_probe__too_many_bytes() -> None:
    file = encode(gradient_rgb(), "PNG")
    assert probe(file, ImageLimits(len(file), 10**6))
    with pytest.raises(ImageTooLarge, match=f"has {len(file)} bytes") as caught:
        probe(file, ImageLimits(len(file) - 1, 10**6))
    assert caught.value.limits == {"max_image_bytes": len(file) - 1}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_probe__too_many_pixels(image_format: str) -> None:
    file = encode(gradient_rgb()[:, :, 0], image_format)
    assert probe(file, ImageLimits(10**6, 40 * 24))
    with pytest.raises(ImageTooLarge, match="has 40 x 24 = 960 pixels") as caught:
        probe(file, ImageLimits(10**6, 40 * 24 - 1))
    assert caught.value.limits == {"max_image_pixels": 40 * 24 - 1}


@pytest.mark.parametrize("step", [probe, decode])
def test_decode__claimed_size_allocates_nothing(
    step: Callable[[bytes, ImageLimits], object],
) -> None:
    file = png_claiming(30_000, 30_000)
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge, match="30000 x 30000"):
            step(file, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_png__compressed_metadata_never_reaches_the_decoder() -> None:
    plain = encode(gradient_rgb(), "PNG")
    heavy = plain
    for kind in (b"zTXt", b"iTXt", b"iCCP", b"prVt"):
        heavy = png_with_chunk(heavy, kind, b"name\0\0" + zlib.compress(bytes(1_000_000)))
    assert png.pixels_only(heavy) == plain
    assert_shows(heavy, gradient_rgb())


def test_gif__comments_never_reach_the_decoder() -> None:
    plain = encode(gradient_rgb()[:, :, 0], "GIF")
    commented = encode(gradient_rgb()[:, :, 0], "GIF", comment=b"no pixels" * 100)
    assert gif.first_frame_only(commented) == gif.first_frame_only(plain)
    assert len(gif.first_frame_only(commented)) < len(commented) - 900


def test_decode__size_within_the_stream_is_checked() -> None:
    """A WebP whose canvas states a small size and whose bitstream holds a large one."""
    file = encode(np.dstack([gradient_rgb(), noise((24, 40))]), "WEBP", lossless=True, exif=b"x")
    canvas = file.index(b"VP8X") + 12
    file = with_bytes(file, canvas, (9).to_bytes(3, "little"))
    with pytest.raises(UndecodableImage, match="beyond the canvas"):
        probe(file, LIMITS)


def test_probe__tiff_of_tiles_far_larger_than_the_picture() -> None:
    """Each tile is decoded whole: 4,000 of 16 x 1,048,576 pixels would take hours."""
    tiles = {322: 16, 323: 1_048_576, 324: 8, 325: 1}
    file = tiff_of({256: 64_000, 257: 16, 258: 8, 262: 1, **tiles})
    with pytest.raises(UndecodableImage, match="far larger than the picture"):
        probe(file, LIMITS)


def test_probe__side_that_no_answer_could_have() -> None:
    with pytest.raises(ImageTooLarge, match="more than 65535 on a side") as caught:
        probe(png_claiming(65_536, 1), LIMITS)
    assert caught.value.limits == {"max_image_side": 65_535}


def test_probe__tiff_of_absurd_tiles() -> None:
    side = 1 << 15
    file = tiff_of({256: 9, 257: 9, 258: 8, 262: 1, 322: side, 323: side, 324: 8, 325: 1})
    with pytest.raises(UndecodableImage, match="tiles"):
        probe(file, LIMITS)


def test_decode__jpeg_of_thousands_of_scans() -> None:
    file = encode(gradient_rgb(), "JPEG", progressive=True)
    last_scan = file.rindex(b"\xff\xda")
    file = file[:-2] + file[last_scan:-2] * 1000 + b"\xff\xd9"
    with pytest.raises(UndecodableImage, match="scans"):
        decode(file, LIMITS)


def test_decode__tiff_of_jpegs_with_too_many_scans() -> None:
    with pytest.raises(UndecodableImage, match="scans"):
        probe(BOMBS["tiff of 90 scans"](5000), ImageLimits(1 << 24, 1 << 25))


def test_decode__tiff_of_overlapping_jpegs() -> None:
    jpeg = encode(gradient_rgb(8, 8)[:, :, 0], "JPEG")
    two_strips = {273: (4, [8, 8]), 278: (3, [4]), 279: (4, [len(jpeg)] * 2)}
    tags = {256: (3, [8]), 257: (3, [8]), 258: (3, [8]), 259: (3, [7]), 262: (3, [1])}
    with pytest.raises(UndecodableImage, match="overlap"):
        probe(tiff_with(tags | two_strips, jpeg), LIMITS)


@pytest.mark.parametrize("compression", [6, 34_712, 34_925, 50_000])
def test_probe__tiff_in_rare_compressions(compression: int) -> None:
    file = tiff_with_tag(encode(gradient_rgb(), "TIFF"), tag=259, value=compression)
    with pytest.raises(UnsupportedMediaType, match=f"compression {compression} is not served"):
        probe(file, LIMITS)


@pytest.mark.parametrize("name", ["gif of tiny blocks", "tiff of huge tags"])
def test_probe__endless_headers(name: str) -> None:
    """Each kept the interpreter for seconds, and every other request with it."""
    with pytest.raises(UndecodableImage, match="more than"):
        probe(BOMBS[name](0), ImageLimits(1 << 24, 1_000_000))


def test_decode__damaged_chunk_of_a_png() -> None:
    file = encode(gradient_rgb(), "PNG")
    inside_pixels = file.index(b"IDAT") + 20
    with pytest.raises(UndecodableImage, match="a chunk is damaged"):
        decode(with_bytes(file, inside_pixels, bytes((file[inside_pixels] ^ 1,))), LIMITS)


def test_decode__png_of_many_pixel_chunks() -> None:
    file = encode(gradient_rgb(), "PNG")
    start = file.index(b"IDAT") - 4
    contents = file[start + 8 : -16]
    pieces = b"".join(png_chunk(b"IDAT", bytes((byte,))) for byte in contents)
    assert_shows(file[:start] + pieces + file[-12:], gradient_rgb())


def test_decode__png_without_pixels() -> None:
    for bits in (8, 16):
        empty = png_of(4, 4, bits, 2, b"")
        with pytest.raises(UndecodableImage, match="pixels are damaged"):
            decode(empty, LIMITS)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_decode__transparent_grey_of_a_png(bits: int) -> None:
    """The one that is transparent is given in the file's own bits."""
    stored = np.array([0, 1, (1 << bits) - 1, 0, 0, 0, 0, 0], np.uint8)
    packed = np.packbits(np.unpackbits(stored[:, None], axis=1)[:, 8 - bits :])
    file = png_of(8, 2, bits, 0, zlib.compress((b"\0" + packed.tobytes()) * 2))
    file = file[:33] + png_chunk(b"tRNS", b"\0\1") + file[33:]
    shown = np.where(stored == 1, 255, stored * np.uint8(255 // ((1 << bits) - 1)))
    assert_shows(file, three_channels(np.tile(shown, (2, 1))))


def test_probe__files_of_endless_parts() -> None:
    limits = ImageLimits(1 << 24, 1_000_000)
    with pytest.raises(UndecodableImage, match="segments"):
        probe(b"\xff\xd8" + b"\xff\xe5\0\2" * 20_000, limits)
    with pytest.raises(UndecodableImage, match="chunks"):
        probe(png_claiming(9, 9)[:33] + (bytes(4) + b"IDAT" + bytes(4)) * 300_000, limits)


@pytest.mark.parametrize("name", one_of_each_format())
def test_decode__cut_off_anywhere(name: str) -> None:
    file = one_of_each_format()[name]
    # The last byte of a GIF, and padding of a BMP or TIFF, make no pixels; an animation's further
    # frames neither.
    margin = len(file) // 2 if name == "gif animated" else 16
    for length in range(0, len(file) - margin, max(1, len(file) // 60)):
        with pytest.raises(UndecodableImage):
            decode(file[:length], LIMITS)


def test_decode__jpeg_without_end_marker() -> None:
    with pytest.raises(UndecodableImage, match="cut off before its end: send the whole file"):
        decode(encode(gradient_rgb(), "JPEG")[:-2], LIMITS)


def test_decode__jpeg_cut_off_behind_its_preview() -> None:
    """A preview's end marker is not the picture's."""
    preview = encode(gradient_rgb(8, 8), "JPEG")
    file = jpeg_with_segment(encode(gradient_rgb(), "JPEG"), 0xE1, b"Exif\0\0" + preview)
    with pytest.raises(UndecodableImage, match="cut off"):
        decode(file[:-2], LIMITS)


@pytest.mark.parametrize("error_class", [ImageTooLarge, UndecodableImage, UnsupportedMediaType])
def test_errors__are_one_sentence_that_says_what_to_do(error_class: type[ServiceError]) -> None:
    data = {
        ImageTooLarge: png_claiming(30_000, 30_000),
        UndecodableImage: encode(gradient_rgb(), "PNG")[:-8],
        UnsupportedMediaType: b"%PDF-1.7",
    }[error_class]
    with pytest.raises(error_class) as caught:
        decode(data, LIMITS)
    assert re.fullmatch(r"The [^.:]+: [^.:]+\.|[A-Z]+ [^.:]+: [^.:]+\.", caught.value.detail)


SOUND_FILES = one_of_each_format()


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A sound file with bytes flipped, overwritten with extremes, repeated, or cut off."""
    data = bytearray(SOUND_FILES[draw(st.sampled_from(sorted(SOUND_FILES)))])
    for _ in range(draw(st.integers(1, 6))):
        # Headers are short, and damage to them reaches further.
        reach = draw(st.sampled_from([32, 128, len(data)]))
        position = draw(st.integers(0, min(reach, len(data)) - 1))
        values = draw(st.sampled_from([b"\0", b"\xff", b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff"]))
        match draw(st.sampled_from(["overwrite", "flip", "repeat"])):
            case "overwrite":
                data[position : position + len(values)] = values
            case "flip":
                data[position] ^= draw(st.integers(1, 255))
            case _:
                data[position:position] = data[position : position + 8]
    if draw(st.booleans()):
        del data[draw(st.integers(1, len(data))) :]
    return bytes(data)


@settings(max_examples=600, deadline=None)
@given(damaged_files())
def test_decode__damaged_files_raise_our_errors_alone(data: bytes) -> None:
    try:
        image = decode(data, LIMITS)
    except ServiceError:
        return
    assert image.pixels_bgr.dtype == np.uint8
    assert image.pixels_bgr.shape == (image.height, image.width, 3)
    assert image.width * image.height <= LIMITS.max_pixels


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]),
    st.binary(),
)
def test_probe__random_bytes_behind_a_signature(signature: bytes, data: bytes) -> None:
    with pytest.raises(ServiceError):
        decode(signature + data, LIMITS)
