"""Picture files made in code, with the pixels that they hold."""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATIONS = range(1, 9)

JPEG_LIKE_PHOTOGRAPH = {"quality": 95, "subsampling": 0}
WEBP_EXACT = {"lossless": True, "exact": True}


def gradient_rgb(width: int = 40, height: int = 24) -> NDArray[np.uint8]:
    """A smooth picture [h, w, 3] without any symmetry, so that each way of turning it differs."""
    across = np.linspace(20, 235, width)[None, :]
    down = np.linspace(10, 245, height)[:, None]
    rgb = np.stack(np.broadcast_arrays(across, down, 255 - (across + down) / 2), axis=2)
    return np.round(rgb).astype(np.uint8)


def noise(shape: Sequence[int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def sixteen_bit_noise(shape: Sequence[int], seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 65536, shape, np.uint16)


def encode(
    picture: Image.Image | NDArray[np.generic], image_format: str, **options: object
) -> bytes:
    """The file that Pillow writes."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def encode_sixteen_bits(pixels: NDArray[np.uint16], extension: str) -> bytes:
    """The file that OpenCV writes of grey, BGR or BGRA."""
    return cv2.imencode(extension, pixels)[1].tobytes()


def over_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The definition of compositing, in floating point."""
    opacity = alpha[:, :, None] / 255
    return np.round(rgb * opacity + 255 * (1 - opacity)).astype(np.uint8)


def exif_block(orientation: int, byte_order: str = "<") -> bytes:
    """EXIF with one tag, without the prefix `Exif`."""
    header = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(f"{byte_order}I", 8)
    entry = struct.pack(f"{byte_order}HHIHH", 274, 3, 1, orientation, 0)
    return header + struct.pack(f"{byte_order}H", 1) + entry + bytes(4)


def as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels that a camera stores under `orientation` for a scene that looks like `upright`.

    From the EXIF table: which side of the scene lies at row 0 and which at column 0.
    """
    turned = upright.swapaxes(0, 1) if orientation >= 5 else upright
    flip_rows, flip_columns = {
        1: (False, False), 2: (False, True), 3: (True, True), 4: (True, False),
        5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True),
    }[orientation]  # fmt: skip
    turned = turned[::-1] if flip_rows else turned
    turned = turned[:, ::-1] if flip_columns else turned
    return np.ascontiguousarray(turned)


def png_chunk(kind: bytes, contents: bytes) -> bytes:
    checksum = zlib.crc32(kind + contents)
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", checksum)


def png_with_chunk(png: bytes, kind: bytes, contents: bytes) -> bytes:
    """The file with one more chunk behind its header."""
    end_of_header = 8 + 25
    return png[:end_of_header] + png_chunk(kind, contents) + png[end_of_header:]


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of any stated size, with a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


def jpeg_with_segment(jpeg: bytes, marker: int, contents: bytes) -> bytes:
    """The file with one more segment behind its start marker."""
    segment = struct.pack(">BBH", 0xFF, marker, len(contents) + 2) + contents
    return jpeg[:2] + segment + jpeg[2:]


def with_bytes(data: bytes, position: int, replacement: bytes) -> bytes:
    """The file with some bytes replaced."""
    return data[:position] + replacement + data[position + len(replacement) :]


def tiff_with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value in a tag that it has, of type SHORT or LONG."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    for position in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", tiff, position) == (tag,):
            return with_bytes(tiff, position + 8, struct.pack("<I", value))
    raise ValueError(f"no tag {tag}")


def tiff_of(values: dict[int, int]) -> bytes:
    """A little-endian TIFF of these tags alone, each one LONG."""
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items())]
    return struct.pack("<4sIH", b"II*\0", 8, len(entries)) + b"".join(entries) + bytes(4)


def one_of_each_format() -> dict[str, bytes]:
    """Small sound files that between them reach every way to decode."""
    rgb = gradient_rgb(20, 14)
    grey, alpha = rgb[:, :, 0], noise((14, 20))
    rgba = np.dstack([rgb, alpha])
    palette = Image.fromarray(rgb).quantize(16)
    black_and_white = Image.fromarray(grey).convert("1")
    cmyk = Image.fromarray(rgb).convert("CMYK")
    flipped = Image.fromarray(rgb[::-1].copy())
    exif = exif_block(6)
    return {
        "jpeg": encode(rgb, "JPEG", exif=b"Exif\0\0" + exif),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg grey": encode(grey, "JPEG"),
        "jpeg cmyk": encode(cmyk, "JPEG"),
        "png": encode(rgb, "PNG", exif=exif),
        "png alpha": encode(rgba, "PNG"),
        "png palette": encode(palette, "PNG", transparency=3),
        "png 16 bits": encode_sixteen_bits(sixteen_bit_noise((7, 9, 4)), ".png"),
        "png animated": encode(rgb, "PNG", save_all=True, append_images=[flipped]),
        "webp lossy": encode(rgba, "WEBP", exif=exif),
        "webp lossless": encode(rgba, "WEBP", lossless=True),
        "webp animated": encode(rgba, "WEBP", save_all=True, append_images=[flipped]),
        "gif": encode(palette, "GIF", transparency=3),
        "gif animated": encode(palette, "GIF", save_all=True, append_images=[flipped.quantize(8)]),
        "bmp": encode(rgb, "BMP"),
        "bmp palette": encode(palette, "BMP"),
        "tiff": encode(rgb, "TIFF", tiffinfo={274: 6}),
        "tiff alpha": encode(rgba, "TIFF"),
        "tiff palette": encode(palette, "TIFF"),
        "tiff cmyk": encode(cmyk, "TIFF"),
        "tiff lzw": encode(rgb, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff fax": encode(black_and_white, "TIFF", compression="group4"),
        "tiff 16 bits": encode_sixteen_bits(sixteen_bit_noise((7, 9, 3)), ".tiff"),
    }
