"""Cores that a process may use, from files as the kernel writes them."""

import os
from pathlib import Path

import pytest

from service.cgroups import read_cgroup_limits
from service.cores import is_quota_limited, num_usable_cores


@pytest.fixture(autouse=True)
def _sixty_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def machine(root: Path, cgroup: str, **limits: str) -> Path:
    """A file system whose process is in `cgroup`; `limits` are files under sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_num_usable_cores__without_any_limit(tmp_path: Path):
    assert num_usable_cores(tmp_path) == 64
    assert read_cgroup_limits(tmp_path).cpus is None
    assert not is_quota_limited(tmp_path)


def test_num_usable_cores__quota_of_a_container(tmp_path: Path):
    root = machine(tmp_path, "0::/\n", **{"cpu.max": "200000 100000\n"})

    assert num_usable_cores(root) == 2
    assert is_quota_limited(root)


def test_num_usable_cores__quota_named_max_is_none(tmp_path: Path):
    root = machine(tmp_path, "0::/\n", **{"cpu.max": "max 100000\n"})

    assert num_usable_cores(root) == 64
    assert not is_quota_limited(root)


@pytest.mark.parametrize(("quota_us", "cores"), [(250_000, 2), (199_000, 1), (50_000, 1)])
def test_num_usable_cores__fraction_is_rounded_down_to_at_least_one(
    tmp_path: Path, quota_us: int, cores: int
):
    root = machine(tmp_path, "0::/\n", **{"cpu.max": f"{quota_us} 100000\n"})

    assert num_usable_cores(root) == cores


def test_num_usable_cores__affinity_below_the_quota_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = machine(tmp_path, "0::/\n", **{"cpu.max": "800000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7})

    assert num_usable_cores(root) == 2
    assert not is_quota_limited(root)


def test_num_usable_cores__a_group_above_is_stricter(tmp_path: Path):
    root = machine(
        tmp_path,
        "0::/kubepods/pod1/container\n",
        **{
            "kubepods/cpu.max": "max 100000\n",
            "kubepods/pod1/cpu.max": "300000 100000\n",
            "kubepods/pod1/container/cpu.max": "max 100000\n",
        },
    )

    assert num_usable_cores(root) == 3


def test_num_usable_cores__first_version_of_cgroups(tmp_path: Path):
    root = machine(
        tmp_path,
        "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:cpuset:/docker/abc\n",
        **{
            # In the container the group's own folder is the mount, whatever its path outside.
            "cpu/cpu.cfs_quota_us": "150000\n",
            "cpu/cpu.cfs_period_us": "50000\n",
            "cpuset/cpu.cfs_quota_us": "50000\n",
            "cpuset/cpu.cfs_period_us": "50000\n",
        },
    )

    assert num_usable_cores(root) == 3


def test_num_usable_cores__first_version_without_a_quota(tmp_path: Path):
    root = machine(
        tmp_path,
        "4:cpu:/\n0::/\n",
        **{"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    )

    assert num_usable_cores(root) == 64


@pytest.mark.parametrize("text", ["", "nonsense", "100000", "100000 0", "1 2 3"])
def test_num_usable_cores__file_that_cannot_be_understood_limits_nothing(tmp_path: Path, text: str):
    root = machine(tmp_path, "0::/\n", **{"cpu.max": text})

    assert num_usable_cores(root) == 64
