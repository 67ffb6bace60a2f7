"""Picture files that cost more than they weigh: made to take memory, or to keep a decoder busy."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from tests.pictures import (
    encode,
    exif_block,
    jpeg_with_segment,
    png_chunk,
    png_with_chunk,
    with_bytes,
)

#: Makes a file whose picture has so many pixels on a side, where its size matters.
Maker = Callable[[int], bytes]

_SCAN, _COMMENT = b"\xff\xda", 0xFE
_ICC_PROFILE = b"iCCP"
_FORMAT_OF_TIFF_TYPE = {1: "B", 3: "H", 4: "I"}


def inflating_zeros(num_mebibytes: int) -> bytes:
    """A zlib stream of zeros, about a thousandth of their number."""
    compressor = zlib.compressobj(9)
    head = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers to what was before, so the block may be repeated.
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    end = compressor.flush()[:-4]
    # Adler-32 of zeros: the first sum stays 1, the second counts them.
    checksum = (num_mebibytes << 20) % 65_521 << 16 | 1
    return head + block * (num_mebibytes - 1) + end + struct.pack(">I", checksum)


def png_of(
    width: int, height: int, bits: int, colour: int, compressed: bytes, *, interlaced: bool = False
) -> bytes:
    """A PNG of that header and compressed pixels; with a palette where it needs one."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    palette = png_chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            palette,
            png_chunk(b"IDAT", compressed),
            png_chunk(b"IEND", b""),
        )
    )


def tiff_with(tags: dict[int, tuple[int, Sequence[int]]], contents: bytes) -> bytes:
    """A little-endian TIFF with `contents` at byte 8; `tags` gives type and values of each."""
    arrays, entries = b"", []
    arrays_at = 8 + len(contents)
    for tag, (type_id, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{_FORMAT_OF_TIFF_TYPE[type_id]}", *values)
        place = struct.pack("<I", arrays_at + len(arrays))
        if len(packed) <= 4:
            place = packed.ljust(4, b"\0")
        else:
            arrays += packed
        entries.append(struct.pack("<HHI", tag, type_id, len(values)) + place)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    start = struct.pack("<I", arrays_at + len(arrays))
    return b"II*\0" + start + contents + arrays + directory


def tiff_of_one_strip(
    side: int, contents: bytes, *, compression: int, photometric: int, bits: Sequence[int]
) -> bytes:
    """A square TIFF whose pixels are one strip."""
    # Unassociated transparency, and channels of no meaning.
    further = [2, *[0] * (len(bits) - 4)]
    transparency = {338: (3, further)} if photometric == 2 and len(bits) > 3 else {}
    subsampling = {530: (3, [2, 2])} if photometric == 6 else {}
    tags = {
        256: (4, [side]),
        257: (4, [side]),
        258: (3, bits),
        259: (3, [compression]),
        262: (3, [photometric]),
        273: (4, [8]),
        277: (3, [len(bits)]),
        278: (4, [side]),
        279: (4, [len(contents)]),
    }
    return tiff_with(tags | transparency | subsampling, contents)


def tiff_of_same_strips(num_strips: int, contents: bytes) -> bytes:
    """A grey TIFF whose strips, one row each, all are the same bytes of the file."""
    tags = {
        256: (4, [200]),
        257: (4, [num_strips]),
        258: (3, [8]),
        259: (3, [8]),
        262: (3, [1]),
        273: (4, [8] * num_strips),
        277: (3, [1]),
        278: (4, [1]),
        279: (4, [len(contents)] * num_strips),
    }
    return tiff_with(tags, contents)


def tiff_of_huge_tags(num_values: int) -> bytes:
    """A TIFF in which every tag has that many values: the same bytes of the file."""
    tags = (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 322, 323, 324, 325, 338, 339)
    entries = b"".join(struct.pack("<HHII", tag, 1, num_values, 8) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + num_values) + b"\1" * num_values + directory


def tiff_of_damaged_fax(num_rows: int) -> bytes:
    """A fax with a mistake in every row."""
    contents = random.Random(0).randbytes(4 * num_rows)
    tags = {
        256: (4, [33]),
        257: (4, [num_rows]),
        258: (3, [1]),
        259: (3, [3]),
        262: (3, [0]),
        273: (4, [8]),
        277: (3, [1]),
        278: (4, [num_rows]),
        279: (4, [len(contents)]),
    }
    return tiff_with(tags, contents)


def gif_of_tiny_blocks(num_blocks: int) -> bytes:
    """A GIF with a comment of one byte a block."""
    file = encode(np.zeros((9, 9), np.uint8), "GIF")
    palette_end = 13 + 3 * (2 << (file[10] & 7))
    comment = b"!\xfe" + b"\1a" * num_blocks + b"\0"
    return file[:palette_end] + comment + file[palette_end:]


def gif_of_many_frames(num_frames: int) -> bytes:
    """A GIF that has the same frame over and over."""
    file = encode(np.zeros((9, 9), np.uint8), "GIF")
    frame = file[file.index(b",") : -1]
    return file[:-1] + frame * (num_frames - 1) + b";"


def webp_of_many_frames(num_frames: int, side: int) -> bytes:
    """A WebP with a large canvas, and small frames all over."""
    file = BytesIO()
    first, second = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    first.save(file, "WEBP", save_all=True, append_images=[second], lossless=True)
    data = file.getvalue()
    frame_at = data.index(b"ANMF")
    frame = data[frame_at : data.index(b"ANMF", frame_at + 1)]
    size = (side - 1).to_bytes(3, "little") * 2
    body = with_bytes(data[12:frame_at], data.index(b"VP8X") - 12 + 12, size) + frame * num_frames
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bmp_of_runs(side: int) -> bytes:
    """An 8-bit BMP in run-length coding whose every row is a few runs."""
    runs, rest = divmod(side, 255)
    row = b"\xff\1" * runs + bytes((rest, 1)) + b"\0\0"
    body = row * side + b"\0\1"
    start = 54 + 1024
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + bytes(1024) + body


def jpeg_of_many_scans(side: int, num_scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    file = encode(Image.new("L", (side, side), 77), "JPEG", progressive=True)
    last = file.rindex(_SCAN)
    return file[:-2] + file[last:-2] * (num_scans - file.count(_SCAN)) + file[-2:]


def jpeg_of_restarts(side: int) -> bytes:
    """A JPEG that may restart before every block, and does."""
    file = encode(Image.new("RGB", (side, side)), "JPEG")
    scan = file.index(_SCAN)
    scan_end = scan + 2 + int.from_bytes(file[scan + 2 : scan + 4])
    interval = b"\xff\xdd\0\4\0\1"
    blocks = b"".join(bytes((0, 0, 0, 0, 0xFF, 0xD0 + index % 8)) for index in range(side * 50))
    return file[:scan] + interval + file[scan:scan_end] + blocks + b"\xff\xd9"


def _blank(mode: str, image_format: str, **options: object) -> Maker:
    def make(side: int) -> bytes:
        return encode(Image.new(mode, (side, side)), image_format, **options)

    return make


def _transparent(image_format: str, **options: object) -> Maker:
    def make(side: int) -> bytes:
        grey = np.arange(side, dtype=np.uint16)[:, None] + np.arange(side, dtype=np.uint16)
        rgba = np.repeat((grey >> 2).astype(np.uint8)[:, :, None], 4, axis=2)
        return encode(rgba, image_format, **options)

    return make


def _png(bits: int, colour: int, *, interlaced: bool = False) -> Maker:
    def make(side: int) -> bytes:
        num_bytes = side * (1 + side * bits * {0: 1, 2: 3, 3: 1, 6: 4}[colour] // 8)
        zeros = inflating_zeros(1 + num_bytes // (1 << 20))
        return png_of(side, side, bits, colour, zeros, interlaced=interlaced)

    return make


def _tiff(compression: int, photometric: int, *bits: int) -> Maker:
    def make(side: int) -> bytes:
        num_bytes = side * side * sum(bits) // 8
        zeros = inflating_zeros(1 + num_bytes // (1 << 20))
        return tiff_of_one_strip(
            side, zeros, compression=compression, photometric=photometric, bits=bits
        )

    return make


def _tiff_of_scans(side: int) -> bytes:
    scans = jpeg_of_many_scans(side, 90)
    return tiff_of_one_strip(side, scans, compression=7, photometric=1, bits=[8])


def _png_with(kind: bytes, num_chunks: int) -> Maker:
    def make(_: int) -> bytes:
        file = encode(np.zeros((9, 9, 3), np.uint8), "PNG")
        chunk = png_chunk(kind, b"name\0\0" + inflating_zeros(8))
        end_of_header = 8 + 25
        return file[:end_of_header] + chunk * num_chunks + file[end_of_header:]

    return make


def _png_of_many_exifs(_: int) -> bytes:
    entries = struct.pack("<HHII", 1, 3, 1, 0) * 65_535
    exif = b"II*\0" + struct.pack("<IH", 8, 65_535) + entries
    file = encode(np.zeros((9, 9, 3), np.uint8), "PNG")
    return file[:33] + png_chunk(b"eXIf", exif) * 20 + file[33:]


def _png_of_many_chunks(_: int) -> bytes:
    file = encode(np.zeros((9, 9, 3), np.uint8), "PNG")
    return file[:33] + png_chunk(b"IDAT", b"") * 150_000 + file[33:]


def _png_that_goes_on(side: int) -> bytes:
    return png_of(10, 10, 8, 2, inflating_zeros(side))


def _png_of_16_bits_that_goes_on(side: int) -> bytes:
    return png_of(10, 10, 16, 2, inflating_zeros(side))


def _jpeg_turned(side: int) -> bytes:
    turned = encode(Image.new("CMYK", (side, side)), "JPEG", progressive=True, subsampling=0)
    return jpeg_with_segment(turned, 0xE1, b"Exif\0\0" + exif_block(7))


def _jpeg_of_many_segments(side: int) -> bytes:
    file = encode(Image.new("RGB", (side, side)), "JPEG")
    return file[:2] + struct.pack(">BBH", 0xFF, _COMMENT, 2) * 9_900 + file[2:]


def _png_turned(side: int) -> bytes:
    return png_with_chunk(_png(16, 6)(side), b"eXIf", exif_block(7))


def _gif_on_large_screen(side: int) -> bytes:
    file = encode(np.zeros((1, 1), np.uint8), "GIF")
    return with_bytes(file, 6, struct.pack("<HH", side, side))


#: By name. Every one is to be decoded in the memory that its header's estimate gives, or refused.
BOMBS: dict[str, Maker] = {
    "jpeg": _blank("RGB", "JPEG"),
    "jpeg progressive": _blank("RGB", "JPEG", progressive=True, subsampling=0),
    "jpeg cmyk, progressive, turned": _jpeg_turned,
    "jpeg of 30 scans": lambda side: jpeg_of_many_scans(side, 30),
    "jpeg of 9,900 segments": _jpeg_of_many_segments,
    "jpeg of restarts": jpeg_of_restarts,
    "png rgb": _png(8, 2),
    "png rgba": _png(8, 6),
    "png 16 bits rgba, interlaced": _png(16, 6, interlaced=True),
    "png 16 bits rgba, turned": _png_turned,
    "png 16 bits rgb": _png(16, 2),
    "png 16 bits grey": _png(16, 0),
    "png 1 bit, interlaced": _png(1, 0, interlaced=True),
    "png palette": _png(8, 3),
    "png that goes on": _png_that_goes_on,
    "png 16 bits that goes on": _png_of_16_bits_that_goes_on,
    "png of 100 texts": _png_with(b"zTXt", 100),
    "png profile": _png_with(_ICC_PROFILE, 1),
    "png of 20 exifs": _png_of_many_exifs,
    "png of 150,000 chunks": _png_of_many_chunks,
    "gif": _blank("P", "GIF"),
    "gif transparent": _blank("P", "GIF", transparency=0),
    "gif on a large screen": _gif_on_large_screen,
    "gif of 100,000 frames": lambda _: gif_of_many_frames(100_000),
    "gif of tiny blocks": lambda _: gif_of_tiny_blocks(2_000_000),
    "webp lossless": _blank("RGB", "WEBP", lossless=True, method=0),
    "webp lossless rgba": _transparent("WEBP", lossless=True, method=0),
    "webp rgba": _transparent("WEBP", method=0),
    "webp of 20,000 frames": lambda side: webp_of_many_frames(20_000, side),
    "tiff": _blank("RGB", "TIFF"),
    "tiff lzw rgba": _blank("RGBA", "TIFF", compression="tiff_lzw"),
    "tiff jpeg": _blank("RGB", "TIFF", compression="jpeg"),
    "tiff fax": _blank("1", "TIFF", compression="group4"),
    "tiff deflate cmyk": _tiff(8, 5, 8, 8, 8, 8),
    "tiff deflate ycbcr": _tiff(8, 6, 8, 8, 8),
    "tiff deflate 6 channels": _tiff(8, 2, 8, 8, 8, 8, 8, 8),
    "tiff deflate 16 bits rgba": _tiff(8, 2, 16, 16, 16, 16),
    "tiff deflate 16 bits grey": _tiff(8, 1, 16),
    "tiff of 90 scans": _tiff_of_scans,
    "tiff of the same strips": lambda _: tiff_of_same_strips(
        20_000, zlib.compress(bytes(200)) + bytes(1 << 20)
    ),
    "tiff of a damaged fax": lambda _: tiff_of_damaged_fax(60_000),
    "tiff of huge tags": lambda _: tiff_of_huge_tags(5_000_000),
    "bmp": _blank("RGB", "BMP"),
    "bmp of runs": bmp_of_runs,
}
