"""Pillow's libtiff without its messages.

It writes a line to stderr for every damaged row of a fax: a file of 240 KB wrote 59,497 of them.
Pillow has no way to turn that off; the library itself has one.
"""

import ctypes
import re
from pathlib import Path

# Importing it loads libtiff.
import PIL.Image  # noqa: F401 # pyright: ignore[reportUnusedImport]

_LIBRARY = re.compile(r" (/.*/libtiff[^/\s]*\.so[^/\s]*)$", re.MULTILINE)


def silence_libtiff() -> bool:
    """Whether there is a libtiff of Pillow's that could be told to be silent."""
    paths = set(_LIBRARY.findall(Path("/proc/self/maps").read_text()))
    for path in paths:
        set_handler = ctypes.CDLL(path).TIFFSetErrorHandler
        set_handler.argtypes = [ctypes.c_void_p]
        set_handler.restype = ctypes.c_void_p
        set_handler(None)
    return bool(paths)
