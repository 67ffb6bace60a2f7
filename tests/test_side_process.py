"""Real processes beside this one; what they are to do stands in the snapshot."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROJECT
from training.evaluation.beside.base import Event, Failed, Finished, Underway
from training.evaluation.beside.process import SideProcess, own_module
from training.evaluation.beside.snapshots import Snapshot, Snapshots

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")

#: Nothing here takes long, but the machine may be busy.
PATIENCE_S = 120


@pytest.fixture
def side(tmp_path: Path) -> Iterator[SideProcess]:
    command, environment = own_module("tests.evaluating_program")
    process = SideProcess(command, log=tmp_path / "process.log", environment=environment)
    yield process
    process.abandon()


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[[str], Snapshot]:
    """A snapshot that is evaluated in the way that is told."""
    snapshots = Snapshots(tmp_path / "evaluations")

    def write(told: str) -> Snapshot:
        def save(weights: Path) -> None:
            weights.with_suffix(".txt").write_text(told)
            os.mkfifo(weights.parent / "held")

        return snapshots.write(3, save)

    return write


def next_event(side: SideProcess) -> Event:
    while (event := side.poll()) is None:
        side.wait(PATIENCE_S)
    return event


def score(snapshot: Snapshot) -> float:
    outcome = snapshot.outcome()
    assert outcome is not None
    return outcome.metrics.values["score"]


def process_of(side: SideProcess) -> psutil.Process:
    assert side._process is not None
    return psutil.Process(side._process.pid)


def test_side_process__gives_what_it_measured(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    told = snapshot("0.25")
    assert told.outcome() is None
    side.begin(told)
    assert next_event(side) == Finished()
    assert score(told) == 0.25


def test_side_process__is_kept_for_the_next(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    processes = set()
    for told in ("0.25", "0.5"):
        side.begin(snapshot(told))
        assert next_event(side) == Finished()
        processes.add(process_of(side).pid)
    assert len(processes) == 1


def test_side_process__nobody_waits_for_it_and_it_says_how_far_it_is(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    told = snapshot("hold")
    side.begin(told)
    assert next_event(side) == Underway(1, 2)
    assert side.poll() is None
    assert told.outcome() is None
    (told.folder / "held").read_text()
    assert next_event(side) == Finished()


def test_side_process__lets_others_compute_first(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    side.begin(snapshot("hold"))
    next_event(side)
    assert process_of(side).nice() > psutil.Process().nice()


def test_side_process__what_it_prints_is_no_answer(
    side: SideProcess, snapshot: Callable[[str], Snapshot], tmp_path: Path
) -> None:
    side.begin(snapshot("print"))
    assert next_event(side) == Finished()
    assert "not meant" in (tmp_path / "process.log").read_text()


def test_side_process__says_what_went_wrong_and_begins_anew(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    side.begin(snapshot("raise"))
    assert next_event(side) == Failed("img.jpg: truncated", died=False)
    told = snapshot("0.5")
    side.begin(told)
    assert next_event(side) == Finished()
    assert score(told) == 0.5


def test_side_process__its_death_is_noticed(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    side.begin(snapshot("die"))
    event = next_event(side)
    assert isinstance(event, Failed)
    assert event.died
    assert "SIGKILL" in event.reason


def test_side_process__that_died_while_idle_is_replaced(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    side.begin(snapshot("0.25"))
    assert next_event(side) == Finished()
    idle = process_of(side)
    idle.kill()
    while idle.status() != psutil.STATUS_ZOMBIE:
        side.wait(0.01)
    side.begin(snapshot("0.5"))
    assert next_event(side) == Finished()


def test_side_process__is_deaf_to_what_reaches_the_group(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    told = snapshot("hold")
    side.begin(told)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The first may come before its program has begun.
        process_of(side).send_signal(number)
    assert next_event(side) == Underway(1, 2)
    process_of(side).terminate()
    (told.folder / "held").read_text()
    assert next_event(side) == Finished()


def test_side_process__ends_when_it_is_abandoned(
    side: SideProcess, snapshot: Callable[[str], Snapshot]
) -> None:
    side.begin(snapshot("hold"))
    next_event(side)
    process = process_of(side)
    side.abandon()
    assert not process.is_running()
    assert side.poll() is None


def test_side_process__that_cannot_be_started_is_a_failure(
    snapshot: Callable[[str], Snapshot], tmp_path: Path
) -> None:
    side = SideProcess([str(tmp_path / "missing")], log=tmp_path / "process.log")
    side.begin(snapshot("0.5"))
    event = side.poll()
    assert isinstance(event, Failed)
    assert "missing" in event.reason
    assert side.poll() is None


#: Has a snapshot evaluated and says so.
_OWNER = """
import sys
from pathlib import Path
from training.evaluation.beside.process import SideProcess, own_module
from training.evaluation.beside.snapshots import Snapshot

folder = Path(sys.argv[1])
command, environment = own_module("tests.evaluating_program")
side = SideProcess(command, log=folder / "log", environment=environment)
side.begin(Snapshot(folder, 3))
while side.poll() is None:
    side.wait(1)
print(side._process.pid, flush=True)
sys.stdin.read()
"""


def test_side_process__does_not_outlive_its_owner(
    snapshot: Callable[[str], Snapshot], tmp_path: Path
) -> None:
    told = snapshot("hold")
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(told.folder)],
        cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with owner:
        assert owner.stdout is not None
        process = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
        _, alive = psutil.wait_procs([process], timeout=PATIENCE_S)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
