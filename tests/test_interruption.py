import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.conftest import PROJECT
from training.interruption import EXIT_AT_ONCE, EXIT_INTERRUPTED, STOP_SIGNALS, StopRequest


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(autouse=True)
def handlers_are_restored() -> Iterator[None]:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_exit_codes__are_what_other_programs_rely_on() -> None:
    assert (EXIT_INTERRUPTED, EXIT_AT_ONCE) == (75, 130)


def test_stop_request__is_not_made_by_itself() -> None:
    with StopRequest() as stop:
        assert not stop.requested
        assert stop.reason is None


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_stop_request__is_made_by_a_signal(number: signal.Signals) -> None:
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert stop.requested
        assert stop.reason == number.name


def test_stop_request__names_the_first_signal() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.reason == "SIGTERM"


def test_stop_request__lets_ignored_signals_be_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def interrupt_twice(seconds_between: float) -> list[int]:
    """The exit codes with which the process would have been left."""
    clock, left = Clock(), []
    with StopRequest(clock=clock, leave=left.append) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        clock.seconds += seconds_between
        signal.raise_signal(signal.SIGINT)
    return left


def test_stop_request__leaves_at_once_at_a_second_interrupt(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert interrupt_twice(2.0) == [EXIT_AT_ONCE]
    assert "the last checkpoint is kept" in capfd.readouterr().err


def test_stop_request__takes_an_echo_for_the_same_interrupt() -> None:
    assert interrupt_twice(0.01) == []


def test_stop_request__waits_however_often_it_is_terminated() -> None:
    clock, left = Clock(), []
    with StopRequest(clock=clock, leave=left.append):
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            clock.seconds += 10
    assert left == []


# ------------------------------------------------------------------------------- parents and ranks

CHILD = """
import os, sys
from training.interruption import die_with_parent
die_with_parent(*map(int, sys.argv[1:]))
print(os.getpid(), flush=True)
sys.stdin.read()
"""

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
child.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_die_with_parent__leaves_no_orphan() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=10)
        assert alive == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_die_with_parent__notices_a_parent_that_is_gone() -> None:
    another = os.getppid()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(another)],
        cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


WORKER = """
import os, signal
from training.data.sampling.workers import prepare_worker, signals_in_order
from training.interruption import STOP_SIGNALS
with signals_in_order():
    for number in STOP_SIGNALS:
        signal.raise_signal(number)
    prepare_worker(os.getppid())
for number in STOP_SIGNALS:
    os.kill(os.getpid(), number)
print("still here")
"""


def test_prepare_worker__outlives_what_stops_its_rank() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=PROJECT, capture_output=True, timeout=60
    )
    assert (done.stdout, done.returncode) == (b"still here\n", 0)


def test_interruption__needs_no_torch() -> None:
    code = "import sys, training.interruption; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=30).returncode == 0
