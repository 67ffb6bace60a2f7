"""The two decoders, with their failures mapped to ours.

OpenCV decodes what it decodes well; it lets other threads run meanwhile. Pillow takes the rest.
"""

from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.Image import Image

from service.codecs.image_formats.base import damaged
from service.codecs.image_formats.pixels import bands, over_white
from service.codecs.image_formats.silent_libtiff import silence_libtiff

# Any client could fill the server's log with damaged files. Nothing is lost: each failure is
# raised here.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
silence_libtiff()


def decode_with_opencv(format_name: str, data: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> MatLike:
    """Grey [h, w], BGR or BGRA [h, w, c] of uint8 or uint16, not turned by any EXIF orientation."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise damaged(format_name, "its pixels are damaged") from error
    # The annotations leave out that a failure is told by None.
    if not isinstance(pixels, np.ndarray):
        raise damaged(format_name, "its pixels are damaged")
    if pixels.dtype.name not in ("uint8", "uint16"):
        raise damaged(format_name, f"its pixels are of type {pixels.dtype}")
    return pixels


def decode_with_pillow(
    format_name: str, data: bytes, plugin: Callable[[BytesIO], ImageFile.ImageFile]
) -> NDArray[np.uint8]:
    """BGR uint8 [h, w, 3], transparency laid over white; `plugin` is Pillow's class."""
    try:
        with plugin(BytesIO(data)) as image:
            image.load()
            # Pillow keeps each pixel in four bytes and would make whole copies on the way.
            bgr = np.empty((image.height, image.width, 3), np.uint8)
            for rows in bands(*bgr.shape[:2]):
                bgr[rows] = _to_bgr(image.crop((0, rows.start, image.width, rows.stop)))
            return bgr
    # On a damaged file Pillow raises nearly anything, ZeroDivisionError and TypeError included.
    except Exception as error:
        raise damaged(format_name, "its pixels are damaged") from error


def _to_bgr(image: Image) -> NDArray[np.uint8]:
    if image.has_transparency_data:
        return over_white(_packed(image, "RGBA", "BGRA"))
    return _packed(image, "RGB", "BGR")


def _packed(image: Image, mode: str, order: str) -> NDArray[np.uint8]:
    """The pixels [h, w, c] with their channels in an order that `mode` can be written in."""
    converted = image if image.mode == mode else image.convert(mode)
    packed = np.frombuffer(converted.tobytes("raw", order), np.uint8)
    return packed.reshape(image.height, image.width, len(order))
