"""What a server runs into on a machine: open files, shared memory, the disk, file modes."""

import resource
import shutil
import stat
from pathlib import Path

from service.diagnosis.findings import Finding
from service.diagnosis.sizes import in_words

_AREA = "limits"

#: Files, models, libraries, the log, the engine.
_FILES_BESIDE_CONNECTIONS = 256

_LEAST_SHARED_MEMORY_BYTES = 256 * 1024 * 1024
_LEAST_DISK_BYTES = 1024 * 1024 * 1024


def open_files_limit() -> int:
    """How many files this process may have open; -1 for no limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check_open_files(limit: int, max_connections: int) -> Finding:
    """Whether every connection can have its file; `limit` -1 stands for none."""
    needed = max_connections + _FILES_BESIDE_CONNECTIONS
    data = {"limit": limit, "needed": needed}
    shown = "no limit" if limit < 0 else f"{limit:,}"
    if 0 <= limit < needed:
        advice = (
            f"{max_connections:,} connections need {needed:,}: raise it (`ulimit -n {needed}`, "
            "LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
        )
        return Finding(_AREA, "open files", "warning", shown, advice, data)
    return Finding(_AREA, "open files", "ok", shown, data=data)


def check_shared_memory(*, is_needed: bool, folder: Path = Path("/dev/shm")) -> Finding:
    """Its size; `is_needed` where a runtime hands pictures over in it."""
    if not folder.is_dir():
        level, advice = ("warning", "mount a tmpfs there") if is_needed else ("ok", "")
        return Finding(_AREA, "shared memory", level, f"there is no {folder}", advice)
    usage = shutil.disk_usage(folder)
    data = {"total_bytes": usage.total, "free_bytes": usage.free}
    shown = f"{in_words(usage.free)} free of {in_words(usage.total)} at {folder}"
    if is_needed and usage.free < _LEAST_SHARED_MEMORY_BYTES:
        advice = f"allow {in_words(_LEAST_SHARED_MEMORY_BYTES)} (--shm-size= of Docker)"
        return Finding(_AREA, "shared memory", "warning", shown, advice, data)
    return Finding(_AREA, "shared memory", "ok", shown, data=data)


def check_disk(folder: Path) -> Finding:
    """What is free where models are written to."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    data = {"free_bytes": free}
    shown = f"{in_words(free)} free at the repository"
    if free < _LEAST_DISK_BYTES:
        advice = "free some before models are imported or trained"
        return Finding(_AREA, "disk", "warning", shown, advice, data)
    return Finding(_AREA, "disk", "ok", shown, data=data)


def check_secret_file(name: str, path: Path) -> Finding:
    """Whether others may read a file with secrets; `name` is the variable that names it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Finding(
            _AREA, name, "problem", f"{path}: {error.strerror}", "create it, or unset it"
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        advice = f"keep it from others: chmod 600 {path}"
        return Finding(_AREA, name, "warning", f"{path} has mode {mode:04o}", advice)
    return Finding(_AREA, name, "ok", f"{path} has mode {mode:04o}")
