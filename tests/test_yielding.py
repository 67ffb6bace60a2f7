"""Threads that compute are nicer than those that answer."""

import os
import subprocess
import sys
import threading

import pytest

from service.runtime.yielding import yielding
from tests.conftest import PROJECT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness of threads is Linux'")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def niceness_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(niceness()))
    thread.start()
    thread.join()
    return found[0]


def test_yielding__concerns_threads_that_are_started_there_alone() -> None:
    before = niceness()
    assert yielding(3, niceness_of_a_new_thread) == before + 3
    assert niceness() == niceness_of_a_new_thread() == before


def test_yielding__of_zero_is_nothing() -> None:
    assert yielding(0, niceness) == niceness()


def test_yielding__raises_what_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no such graph")

    with pytest.raises(ValueError, match="no such graph"):
        yielding(1, fail)


def test_yielding__where_it_is_forbidden_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbid(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbid)
    assert yielding(5, lambda: "made") == "made"
    assert "do not yield to others: Operation not permitted" in caplog.text


PROGRAM = """
import os, threading
from pathlib import Path
from service.settings import Settings
from service.wiring import build_detector

before = {int(each) for each in os.listdir("/proc/self/task")}
detector = build_detector(
    Settings(models=("rtmdet-nano-shapes",), runtime="openvino", inference_threads=2)
)
own = os.getpriority(os.PRIO_PROCESS, 0)
new = {int(each) for each in os.listdir("/proc/self/task")} - before
print(own, sorted(os.getpriority(os.PRIO_PROCESS, each) - own for each in new))
"""


def test_build_detector__openvino_computes_on_threads_that_yield() -> None:
    """Two streams, at least; those that wait for them, decode and answer do not yield."""
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=PROJECT,
        env=os.environ | {"RTMDET_INFERENCE_NICE": "4"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    own, _, nicer = told.stdout.strip().partition(" ")
    assert int(own) == niceness()
    found = [int(each) for each in nicer.strip("[]").split(", ")]
    assert found.count(4) >= 2
    assert set(found) <= {0, 4}
    assert found.count(0) >= 3
