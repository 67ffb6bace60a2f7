"""What a container leaves of the machine: quota of processor time and limit of memory (Linux)."""

from dataclasses import dataclass
from pathlib import Path

#: A limit of cgroup v1 that is no limit: about 2^63.
_UNLIMITED_BYTES = 1 << 60

#: Of the two files that are one in v2.
_V1_TIMES = ("quota", "period")


@dataclass(frozen=True)
class CgroupLimits:
    """`cpus` is a quota, in cores; None stands for no limit."""

    cpus: float | None
    memory_bytes: int | None


def read_cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """The tightest limits of this process's cgroup and those above it; `root` is the file system.

    Reads cgroup v2 and v1. In a container the kernel may tell the path outside, of which the mount
    alone is there.
    """
    mounted = root / "sys/fs/cgroup"
    paths = _own_paths(_text(root / "proc/self/cgroup"))
    folders = _folders(mounted, paths.get(""))
    quotas = [parse_cpu_max(_text(folder / "cpu.max")) for folder in folders]
    limits = [parse_memory_max(_text(folder / "memory.max")) for folder in folders]
    for folder in _folders(mounted / "cpu", paths.get("cpu")):
        quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in _V1_TIMES)
        quotas.append(parse_cpu_max(f"{quota} {period}"))
    for folder in _folders(mounted / "memory", paths.get("memory")):
        limits.append(parse_memory_max(_text(folder / "memory.limit_in_bytes")))
    return CgroupLimits(
        cpus=min((each for each in quotas if each is not None), default=None),
        memory_bytes=min((each for each in limits if each is not None), default=None),
    )


def parse_cpu_max(text: str) -> float | None:
    """Cores that `QUOTA PERIOD` leaves, both in microseconds; None for `max`, -1 and nothing.

    >>> parse_cpu_max("150000 100000")
    1.5
    """
    parts = text.split()
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or parts[1] == "0":
        return None
    return int(parts[0]) / int(parts[1])


def parse_memory_max(text: str) -> int | None:
    """Bytes; None for `max`, what stands for it in v1, and nothing."""
    text = text.strip()
    if not text.isdecimal() or int(text) >= _UNLIMITED_BYTES:
        return None
    return int(text)


def _own_paths(proc_cgroup: str) -> dict[str, str]:
    """Of /proc/self/cgroup the path by controller; that of v2 has none."""
    paths: dict[str, str] = {}
    for line in proc_cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _folders(mounted: Path, path: str | None) -> list[Path]:
    """The folder of a cgroup and those above it, up to the mount."""
    own = mounted / (path or "").lstrip("/")
    return [each for each in (own, *own.parents) if each.is_relative_to(mounted)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
