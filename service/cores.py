"""How many processor cores this process may use, in a container too.

A container's limit of "2 CPUs" is mostly a quota of time (cgroup `cpu.max`), not a set of cores:
on a node of 64 the process still sees 64, and 64 threads would use up the quota in a few
milliseconds and then stand still for the rest of every period.
"""

import math
import os
from pathlib import Path

from service.cgroups import read_cgroup_limits

_FILES = Path("/")


def num_usable_cores(root: Path = _FILES) -> int:
    """Cores to start threads for: those of the affinity mask, or fewer by the cgroup's quota.

    A quota of 2.5 cores counts as 2, for threads beyond a quota are stopped together; one below 1
    counts as 1. `root` is where `proc` and `sys` lie.
    """
    allowed, quota = num_allowed_cores(), read_cgroup_limits(root).cpus
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def is_quota_limited(root: Path = _FILES) -> bool:
    """Whether a quota of time leaves fewer cores than there are to run on.

    Others then run on the same cores, so that threads should not be tied to some of them.
    """
    quota = read_cgroup_limits(root).cpus
    return quota is not None and quota < num_allowed_cores()


def num_allowed_cores() -> int:
    """Cores that the process may run on, whatever time it is given there."""
    return len(os.sched_getaffinity(0))
