"""The versions of what computes: a run continues to the bit only with the same ones."""

import platform
from importlib.metadata import version

_PACKAGES = ("rtmdet-serving", "torch", "numpy", "opencv-python-headless")


def library_versions() -> dict[str, str]:
    """Package -> version, Python's included."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
