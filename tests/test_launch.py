"""Real processes: what is started here is waited for, and ended if a test fails."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROJECT
from training.checkpoint import CheckpointStore
from training.interruption import EXIT_INTERRUPTED
from training.run.launch import launch
from training.run.run_folder import RunRefused

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")

#: Nothing here takes long, but the machine may be busy.
PATIENCE_S = 120


def program(code: str) -> list[str]:
    """A rank without torch; `rank` is its number."""
    return [sys.executable, "-c", f"import os, sys, signal\nrank = int(os.environ['RANK'])\n{code}"]


# ------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sys.exit(0)", 0),
        (f"sys.exit({EXIT_INTERRUPTED})", EXIT_INTERRUPTED),
        ("sys.exit(2)", 2),
        ("sys.exit(3)", 1),
        ("sys.exit(130)", 130),
        (f"sys.exit(0 if rank else {EXIT_INTERRUPTED})", EXIT_INTERRUPTED),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1),
        # What a rank says after another has failed does not count.
        ("sys.exit(2) if rank else signal.pause()", 2),
    ],
)
def test_launch__tells_how_the_ranks_ended(tmp_path: Path, code: str, expected: int) -> None:
    assert launch(2, program(code), 30, logs=tmp_path) == expected


def test_launch__refuses_a_place_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunRefused, match="cannot hold a run"):
        launch(2, program("sys.exit(0)"), 30, logs=tmp_path / "file" / "run" / "ranks")


def test_launch__gives_each_rank_its_place(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    code = f"print(*(os.environ[name] for name in {names}))\nassert int(os.environ['MASTER_PORT'])"
    launch(3, program(code), 30, logs=tmp_path)
    assert (tmp_path / "rank-1.log").read_text() == "1 1 3 3 127.0.0.1\n"
    assert (tmp_path / "rank-2.log").read_text() == "2 2 3 3 127.0.0.1\n"


def test_launch__prints_what_rank_0_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    launch(2, program("print('rank', rank)"), 30, logs=tmp_path)
    assert capfd.readouterr() == ("rank 0\n", "")


def test_launch__shows_the_error_of_a_rank_that_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "if rank: raise RuntimeError('out of luck')\nsignal.pause()"
    assert launch(2, program(code), 30, logs=tmp_path) == 1
    shown = capfd.readouterr().err.splitlines()
    assert shown[0] == f"rank 1 ended with code 1; the end of {tmp_path / 'rank-1.log'}:"
    assert shown[-1] == "  RuntimeError: out of luck"


def test_launch__kills_a_rank_that_outstays_the_grace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.kill(os.getppid(), signal.SIGTERM)\n"
    code += "while True: signal.pause()"
    assert launch(1, program(f"print(os.getpid(), flush=True)\n{code}"), 0.5, logs=tmp_path) == 1
    printed, said = capfd.readouterr()
    assert "1 of 1 ranks had not ended after 0.5 s" in said
    assert gone(int(printed))


def test_launch__asks_the_others_to_end_when_a_rank_has_failed(tmp_path: Path) -> None:
    code = "if rank: sys.exit(1)\n"
    code += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    code += "while True: signal.pause()"
    # Rank 1 may fail before rank 0 listens; then the signal itself ends rank 0. Never the grace.
    assert launch(2, program(code), PATIENCE_S * 10, logs=tmp_path) == 1


def test_launch__ends_what_a_rank_leaves_behind(tmp_path: Path) -> None:
    left = "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])"
    code = f"import subprocess\nchild = {left}\nif rank: print(child.pid)"
    assert launch(2, program(code), 30, logs=tmp_path) == 0
    child = int((tmp_path / "rank-1.log").read_text())
    assert gone(child)


def test_launch__counts_a_stop_before_the_ranks_listen_as_one(tmp_path: Path) -> None:
    code = "if rank == 0: os.kill(os.getppid(), signal.SIGTERM)\nsignal.pause()"
    assert launch(2, program(code), 30, logs=tmp_path) == EXIT_INTERRUPTED


def test_launch__puts_the_signal_handlers_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    launch(1, program(""), 30, logs=tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


# ------------------------------------------------------------------------------- the tree of a run


@dataclass
class Tree:
    """A launcher whose ranks are at work, and all processes below it."""

    agent: "subprocess.Popen[str]"
    processes: list[psutil.Process]

    @property
    def ranks(self) -> list[psutil.Process]:
        """In the order of their start, which is that of their numbers."""
        ranks = [p for p in self.processes if p.ppid() == self.agent.pid]
        return sorted(ranks, key=lambda rank: (rank.create_time(), rank.pid))

    def exit_code(self) -> int:
        return self.agent.wait(PATIENCE_S)

    def has_ended(self, within_s: float = PATIENCE_S) -> bool:
        return have_ended(self.processes, within_s)


def gone(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return True
    return have_ended([process], PATIENCE_S)


def have_ended(processes: Sequence[psutil.Process], within_s: float) -> bool:
    """Whether all of them end in time; those that nobody waited for count."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return all(map(is_zombie, alive))


def is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # ended since
        return True


LAUNCHER = """
import sys
from pathlib import Path
from training.run.launch import launch
grace_s, logs, *command = sys.argv[1:]
sys.exit(launch(2, command, float(grace_s), logs=Path(logs)))
"""


@contextmanager
def tree(command: Sequence[str], num_processes: int = 7) -> Iterator[Tree]:
    """Start `command`, wait until every rank is at work, and leave nothing behind."""
    agent = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    processes = [psutil.Process(agent.pid)]
    try:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
        processes += processes[0].children(recursive=True)
        # The launcher, two ranks, two data workers of each.
        assert len(processes) == num_processes
        yield Tree(agent, processes)
    finally:
        for process in processes:
            if process.is_running():
                process.kill()
        agent.communicate()


@contextmanager
def ranks_at_work(folder: Path, *, save_s: float = 0) -> Iterator[Tree]:
    rank = [sys.executable, "-m", "tests.rank_program", str(folder), f"--save-s={save_s}"]
    launcher = [sys.executable, "-c", LAUNCHER, str(PATIENCE_S), str(folder / "ranks"), *rank]
    with tree(launcher) as started:
        yield started


def saved_step(folder: Path) -> int:
    state = CheckpointStore(folder, keep=1).load_latest()
    assert state is not None
    assert len(state.random) == 2
    return state.step


def test_launch__saves_and_ends_on_sigterm(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path) as run:
        run.agent.terminate()
        assert run.exit_code() == EXIT_INTERRUPTED
        assert run.has_ended()
    assert saved_step(tmp_path) >= 1


def test_launch__saves_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path) as run:
        os.killpg(run.agent.pid, signal.SIGINT)
        assert run.exit_code() == EXIT_INTERRUPTED
        assert run.has_ended()
    assert saved_step(tmp_path) >= 1


def test_launch__saves_when_every_process_is_signalled(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path) as run:
        for process in run.processes:
            process.terminate()
        assert run.exit_code() == EXIT_INTERRUPTED
        assert run.has_ended()
    assert saved_step(tmp_path) >= 1


@pytest.mark.slow
def test_launch__waits_for_a_slow_save(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path, save_s=10) as run:
        run.agent.terminate()
        assert run.exit_code() == EXIT_INTERRUPTED
        assert run.has_ended()
    assert saved_step(tmp_path) >= 1


def test_launch__leaves_no_rank_when_it_is_killed(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path) as run:
        run.agent.kill()
        assert run.has_ended(within_s=2)


def test_launch__ends_the_others_when_a_rank_is_killed(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path) as run:
        run.ranks[1].kill()
        assert run.exit_code() == 1
        assert run.has_ended()


@pytest.mark.slow
def test_torchrun__saves_and_leaves_nothing_behind(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node=2", "--shutdown-timeout=60"]
    with tree([*torchrun, *options, "-m", "tests.rank_program", str(tmp_path)]) as run:
        run.agent.terminate()
        # Whatever the ranks say, torchrun says 1.
        assert run.exit_code() == 1
        assert run.has_ended()
    assert saved_step(tmp_path) >= 1
