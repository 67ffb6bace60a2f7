"""What a container leaves of the machine: quota of processor time and limit of memory (Linux)."""

from dataclasses import dataclass
from pathlib import Path

#: A limit of cgroup v1 that is no limit: about 2^63.
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class CgroupLimits:
    """`cpus` is a quota, in cores; None stands for no limit."""

    cpus: float | None
    memory_bytes: int | None


def read_cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """The tightest limits of this process's cgroup and those above it; `root` is the file system.

    Reads cgroup v2, and v1 where a container is mounted as its own root.
    """
    mounted = root / "sys/fs/cgroup"
    folders = [mounted, *_own_folders(mounted, _text(root / "proc/self/cgroup"))]
    quotas = [parse_cpu_max(_text(folder / "cpu.max")) for folder in folders]
    limits = [parse_memory_max(_text(folder / "memory.max")) for folder in folders]
    first = mounted / "cpu"
    period = _text(first / "cpu.cfs_period_us").strip()
    quotas.append(parse_cpu_max(f"{_text(first / 'cpu.cfs_quota_us').strip()} {period}"))
    limits.append(parse_memory_max(_text(mounted / "memory" / "memory.limit_in_bytes")))
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


def _own_folders(mounted: Path, proc_cgroup: str) -> list[Path]:
    """The folder of this process's cgroup (v2) and those above it, below `mounted`."""
    for line in proc_cgroup.splitlines():
        if line.startswith("0::/"):
            own = mounted / line.removeprefix("0::/")
            return [each for each in (own, *own.parents) if each.is_relative_to(mounted)]
    return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
