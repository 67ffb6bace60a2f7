"""GPUs, by what the driver says; nothing is imported that would start to use them."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from service.diagnosis.findings import Finding
from service.runtime.nvidia_driver import gpu_names

_AREA = "accelerators"

_QUERY = "--query-gpu=name,memory.total,driver_version,compute_cap"
_WITHIN_S = 10.0


def check_gpus(root: Path = Path("/")) -> list[Finding]:
    """NVIDIA GPUs: by `nvidia-smi` where it is, else by the driver's own files."""
    if not (command := shutil.which("nvidia-smi")):
        return [_by_driver(root)]
    try:
        done = subprocess.run(
            [command, _QUERY, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_WITHIN_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [_broken(str(error))]
    if done.returncode:
        return [_broken(" ".join((done.stdout + done.stderr).split()))]
    return list_gpus(done.stdout.splitlines())


def list_gpus(lines: Sequence[str]) -> list[Finding]:
    """One line of `nvidia-smi` for each GPU: name, memory, driver, compute capability."""
    if not lines:
        return [_none()]
    return [
        Finding(_AREA, f"gpu {number}", "ok", line.strip(), data={"gpu": line.split(", ")})
        for number, line in enumerate(lines)
    ]


def _by_driver(root: Path) -> Finding:
    names = gpu_names(root)
    return Finding(_AREA, "gpu", "ok", ", ".join(names), data={"gpus": names}) if names else _none()


def _none() -> Finding:
    return Finding(_AREA, "gpu", "ok", "none; models run on the processor")


def _broken(reason: str) -> Finding:
    return Finding(
        _AREA,
        "gpu",
        "warning",
        f"nvidia-smi fails: {reason}",
        "mend the driver; models run on the processor meanwhile",
    )
