"""Which versions of what are installed, told by their metadata: nothing is imported for it."""

import importlib.metadata
import platform
import sys
from collections.abc import Callable

from service.diagnosis.findings import Finding
from service.version import VERSION

_AREA = "versions"

#: What serving needs, by the names under which it may be installed.
_NEEDED = {
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless"),
    "openvino": ("openvino",),
    "fastapi": ("fastapi",),
    "uvicorn": ("uvicorn",),
    "pydantic": ("pydantic",),
}

#: What other parts and other runtimes need.
_OPTIONAL = {
    "torch": ("torch",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tritonclient": ("tritonclient",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "opentelemetry-sdk": ("opentelemetry-sdk",),
}

_PYTHONS = ((3, 11), (3, 13))

#: Gives the version of an installed distribution, or None.
Installed = Callable[[str], str | None]


def installed_version(distribution: str) -> str | None:
    """The version of a distribution, or None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions(installed: Installed = installed_version) -> list[Finding]:
    """The product, Python, the system, and the packages that matter."""
    return [
        Finding(_AREA, "rtmdet-serving", "ok", VERSION, data={"version": VERSION}),
        check_python(sys.version_info[:2]),
        Finding(_AREA, "system", "ok", platform.platform()),
        *(_check_needed(name, names, installed) for name, names in _NEEDED.items()),
        *(_tell_optional(name, names, installed) for name, names in _OPTIONAL.items()),
    ]


def check_python(version: tuple[int, int]) -> Finding:
    """Whether the interpreter is one that the tests have run with."""
    oldest, newest = _PYTHONS
    shown = f"{platform.python_version()} ({platform.python_implementation()})"
    if oldest <= version <= newest:
        return Finding(_AREA, "python", "ok", shown)
    advice = f"use {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
    return Finding(_AREA, "python", "warning", shown, advice)


def _check_needed(name: str, names: tuple[str, ...], installed: Installed) -> Finding:
    version = _first_version(names, installed)
    if version is None:
        advice = "install it: pip install '.[serve]'"
        return Finding(_AREA, name, "problem", "not installed", advice, {"version": None})
    return Finding(_AREA, name, "ok", version, data={"version": version})


def _tell_optional(name: str, names: tuple[str, ...], installed: Installed) -> Finding:
    version = _first_version(names, installed)
    return Finding(_AREA, name, "ok", version or "not installed", data={"version": version})


def _first_version(names: tuple[str, ...], installed: Installed) -> str | None:
    return next((version for each in names if (version := installed(each))), None)
