"""Damaged and hostile pictures and bodies, made of sound ones; each follows from a seed.

    Mutations(seed).picture(index)    the same file every time

Damage alone rarely comes past the first checksum or length, so some kinds know the formats: they
edit lengths, repeat and reorder parts, and mend the checksums of a PNG afterwards.
"""

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.picture_bombs import inflating_zeros, png_of, tiff_of_one_strip
from tests.pictures import (
    encode,
    exif_block,
    gradient_rgb,
    noise,
    one_of_each_format,
)

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def sound_pictures() -> list[bytes]:
    """Small files of every accepted format, in more variants than `one_of_each_format`."""
    rgb = gradient_rgb(33, 21)
    grey, rgba = rgb[:, :, 1], np.dstack([rgb, noise((21, 33))])
    image = Image.fromarray(rgb)
    palette = image.quantize(16)
    jpegs = [
        encode(rgb, "JPEG", exif=b"Exif\0\0" + exif_block(orientation))
        for orientation in range(1, 9)
    ]
    jpegs += [
        encode(rgb, "JPEG", progressive=True, subsampling=subsampling) for subsampling in (0, 2)
    ]
    jpegs.append(encode(image.convert("CMYK"), "JPEG", progressive=True))
    zeros = inflating_zeros(1)
    pngs = [
        png_of(19, 13, bits, colour, zeros, interlaced=interlaced)
        for bits, colour in ((1, 0), (4, 3), (8, 2), (8, 6), (16, 0), (16, 6))
        for interlaced in (False, True)
    ]
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    tiffs = [encode(rgb, "TIFF", compression=each) for each in compressions]
    tiffs += [encode(rgba, "TIFF", compression=each) for each in compressions[:3]]
    tiffs += [
        encode(image.convert("1"), "TIFF", compression=each)
        for each in ("group3", "group4", "tiff_ccitt")
    ]
    tiffs.append(encode(image.convert("YCbCr"), "TIFF"))
    tiffs.append(tiff_of_one_strip(16, zeros, compression=8, photometric=2, bits=[16, 16, 16, 16]))
    bmps = [encode(each, "BMP") for each in (image.convert("1"), grey, rgba)]
    webps = [encode(rgba, "WEBP", quality=50), encode(palette.convert("RGB"), "WEBP", method=6)]
    frames = [Image.fromarray(np.roll(rgb, shift, 1)) for shift in range(4)]
    animations = [
        encode(image, image_format, save_all=True, append_images=frames)
        for image_format in ("WEBP", "GIF", "PNG", "TIFF")
    ]
    return [*one_of_each_format().values(), *jpegs, *pngs, *tiffs, *bmps, *webps, *animations]


@dataclass(frozen=True)
class HostileBody:
    """The body of a request, and what its Content-Type says of it."""

    content_type: str
    body: bytes
    target: str = "/detect"


class Mutations:
    """Draws the mutations of a seed; each index gives one, whichever were drawn before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._sound = sound_pictures()

    def picture(self, index: int) -> bytes:
        """A file that was a picture."""
        return self._picture(random.Random(f"{self.seed}:{index}"))

    def body(self, index: int) -> HostileBody:
        """A request's body: a mutated picture in a sound or a mutated wrapping."""
        chance = random.Random(f"{self.seed}:{index}:body")
        picture = self._picture(chance) if chance.random() < 0.7 else chance.choice(self._sound)
        wrap = chance.choice((_raw, _raw, _in_form, _in_form, _in_json, _in_json, _in_batch))
        wrapped = wrap(chance, picture)
        if chance.random() < 0.4:
            return HostileBody(wrapped.content_type, _damage(chance, wrapped.body), wrapped.target)
        return wrapped

    def _picture(self, chance: random.Random) -> bytes:
        data = chance.choice(self._sound)
        for _ in range(chance.choice((1, 1, 2, 4))):
            kind = chance.choice((_damage, _damage, _with_lengths, _with_repeated_parts))
            data = kind(chance, data)
        if chance.random() < 0.15:
            data = _spliced(chance, data, chance.choice(self._sound))
        if data.startswith(_PNG_SIGNATURE) and chance.random() < 0.7:
            data = with_mended_checksums(data)
        return data


def with_mended_checksums(png: bytes) -> bytes:
    """The PNG with the right sum behind every chunk that is whole."""
    data, position = bytearray(png), len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(data)


def _damage(chance: random.Random, data: bytes) -> bytes:
    """Bytes flipped, overwritten, cut out, put in or doubled; or the end cut off."""
    damaged = bytearray(data)
    if not damaged:
        return data
    # Headers are short, and damage to them reaches further.
    reach = chance.choice((32, 128, len(damaged)))
    start = chance.randrange(min(reach, len(damaged)))
    end = min(len(damaged), start + chance.choice((1, 2, 4, 16, 100)))
    match chance.randrange(7):
        case 0 | 1:
            damaged[start] ^= 1 << chance.randrange(8)
        case 2:
            damaged[start:end] = bytes([chance.choice((0, 0xFF, 0x20))]) * (end - start)
        case 3:
            del damaged[start:end]
        case 4:
            damaged[start:start] = chance.randbytes(end - start)
        case 5:
            damaged[start:start] = damaged[start:end] * chance.choice((1, 3, 200))
        case _:
            del damaged[chance.randrange(len(damaged)) :]
    return bytes(damaged)


def _with_lengths(chance: random.Random, data: bytes) -> bytes:
    """A number of 2 or 4 bytes somewhere becomes an extreme one."""
    width = chance.choice("HI")
    if len(data) < 8:
        return data
    reach = chance.choice((64, 400, len(data)))
    position = chance.randrange(max(1, min(reach, len(data)) - 4))
    value = chance.choice(_EXTREMES) & (0xFFFF if width == "H" else 0xFFFFFFFF)
    edited = bytearray(data)
    struct.pack_into(chance.choice("<>") + width, edited, position, value)
    return bytes(edited)


def _with_repeated_parts(chance: random.Random, data: bytes) -> bytes:
    """Parts by the rules of the format, repeated or in another order; else a piece of any kind."""
    for signature, parts_of in _PARTS.items():
        if data.startswith(signature):
            start, parts = parts_of(data)
            if len(parts) < 2:
                break
            chosen = chance.randrange(len(parts))
            if chance.random() < 0.6:
                parts[chosen:chosen] = [parts[chosen]] * chance.choice((1, 2, 50))
            elif chance.random() < 0.5:
                chance.shuffle(parts)
            else:
                del parts[chosen]
            return data[:start] + b"".join(parts)
    return _damage(chance, data)


def _png_parts(data: bytes) -> tuple[int, list[bytes]]:
    parts, position = [], len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        parts.append(data[position : position + 12 + length])
        position += 12 + length
    return len(_PNG_SIGNATURE), parts


def _jpeg_parts(data: bytes) -> tuple[int, list[bytes]]:
    """Segments; what follows the first scan is one part."""
    parts, position = [], 2
    while position + 4 <= len(data) and data[position + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, position + 2)
        parts.append(data[position : position + 2 + length])
        position += 2 + length
    return 2, [*parts, data[position:]]


def _riff_parts(data: bytes) -> tuple[int, list[bytes]]:
    parts, position = [], 12
    while position + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, position + 4)
        end = position + 8 + length + length % 2
        parts.append(data[position:end])
        position = end
    return 12, parts


_PARTS: dict[bytes, Callable[[bytes], tuple[int, list[bytes]]]] = {
    _PNG_SIGNATURE: _png_parts,
    b"\xff\xd8": _jpeg_parts,
    b"RIFF": _riff_parts,
}


def _spliced(chance: random.Random, first: bytes, second: bytes) -> bytes:
    """The head of one file and the tail of another."""
    return first[: chance.randint(0, len(first))] + second[chance.randint(0, len(second)) :]


def _raw(chance: random.Random, picture: bytes) -> HostileBody:
    # Whatever the type says, the bytes decide.
    said = ("image/jpeg", "image/png", "image/*", "application/octet-stream", "IMAGE/x; q=\xe9")
    lies = ("", "text/plain", "application/json", "multipart/form-data", "image", ";", "\xff")
    return HostileBody(chance.choice(said if chance.random() < 0.8 else lies), picture)


def _in_form(chance: random.Random, picture: bytes) -> HostileBody:
    boundary = chance.choice(("x", "-" * 70, "a b", "x" * 900, "é", '"', "--"))
    said = chance.choice((boundary, boundary, f'"{boundary}"', "other", ""))
    name = chance.choice(("image", "image", "image", "images", "file", "img", "", "ï" * 40))
    headers = chance.choice(
        (
            "",
            "Content-Type: image/png\r\n",
            "Content-Transfer-Encoding: base64\r\n",
            "Content-Transfer-Encoding: quoted-printable\r\n",
            "Content-Type: multipart/mixed; boundary=x\r\n",
            "X: y\r\n" * 50,
        )
    )
    line_end = chance.choice(("\r\n", "\r\n", "\r\n", "\n"))
    file_name = chance.choice(('; filename="a.jpg"', "; filename*=utf-8''%ff", "", '; filename="'))
    part = (
        f'--{boundary}{line_end}Content-Disposition: form-data; name="{name}"{file_name}{line_end}'
    )
    option = f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n\ud7ff\r\n'
    body = (part + headers + line_end).encode("utf-8", "replace") + picture + b"\r\n"
    body = body * chance.choice((1, 1, 1, 2)) + option.encode() * chance.choice((0, 0, 1, 2, 70))
    body += f"--{boundary}--\r\n".encode() if chance.random() < 0.8 else b""
    return HostileBody(f"multipart/form-data; boundary={said}", body)


def _in_json(chance: random.Random, picture: bytes) -> HostileBody:
    text = base64.b64encode(picture).decode()
    text = chance.choice((text, text, text, text[:-1], f"data:image/png;base64,{text}", "\ud800"))
    image = chance.choice(({"base64": text}, {"base64": text}, text, [], None, {"url": "http://a"}))
    document: object = {"image": image}
    match chance.randrange(6):
        case 0:
            document = {"image": image, "options": {"score_threshold": _odd_value(chance)}}
        case 1:
            document = {"image": image, chance.choice(("model", "classes")): _odd_value(chance)}
        case 2:
            document = _nested(chance.choice((3, 900, 5000)), chance.choice("[{"), document)
            if isinstance(document, bytes):
                return HostileBody("application/json", document)
        case _:
            pass
    encoding = chance.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32-be", "latin-1"))
    written = json.dumps(document, ensure_ascii=chance.random() < 0.5)
    said = chance.choice(("application/json", "application/json; charset=utf-16"))
    return HostileBody(said, written.encode(encoding, "replace"))


def _in_batch(chance: random.Random, picture: bytes) -> HostileBody:
    images: list[object] = [{"base64": base64.b64encode(picture).decode()}]
    images *= chance.choice((1, 2, 5))
    images[0] = chance.choice((images[0], images[0], "", None, [], {"base64": ""}))
    body = json.dumps({"images": images, "mask_format": chance.choice(("rle", "x", 5))}).encode()
    return HostileBody("application/json", body, "/detect:batch")


def _odd_value(chance: random.Random) -> object:
    return chance.choice(
        (
            1e308,
            -1,
            "NaN",
            float("nan"),
            10**400,
            "x" * 20_000,
            [[1]],
            {"a": {}},
            "\ud800",
            True,
            "",
        )
    )


def _nested(depth: int, bracket: str, document: object) -> object:
    """Brackets within brackets; as bytes where Python itself could not write them."""
    if depth > 900:
        return bracket.encode() * depth
    for _ in range(depth):
        document = [document] if bracket == "[" else {"image": document}
    return document
