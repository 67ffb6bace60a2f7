"""Starts the ranks of a run on this machine and answers for them: signals, output, exit code.

Ranks find one another as under torchrun (`RANK`, `WORLD_SIZE`, `MASTER_PORT`, ...), so the same
command also runs under `torchrun --nproc-per-node 2 -m rtmdet train ...`. torchrun itself turns
every exit code but 0 into 1 and kills ranks 30 seconds after one has ended; `status.json` has the
run's own code, and `--shutdown-timeout` the seconds. Across machines, torchrun is the way.

Not built on torchrun's agent, because that forgets the ranks' exit codes once it gets a signal.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from training.interruption import EXIT_AT_ONCE, EXIT_INTERRUPTED, LAUNCHER_PID, STOP_SIGNALS
from training.run.run_folder import refusing_what_cannot_be_written

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

#: The caller's mistake, as of every `rtmdet` command.
EXIT_MISTAKE = 2

#: Anything else.
EXIT_FAILED = 1

#: How often the ranks are looked after.
_POLL_S = 0.05

#: So much of the output of a rank that failed is shown.
_LINES_SHOWN = 20


def launch(num_processes: int, command: Sequence[str], grace_s: float, *, logs: Path) -> int:
    """Run `command` as `num_processes` ranks, and return the exit code for all of them.

    Rank 0 has this process's output; what the others print goes to `logs`/rank-1.log and so on,
    and its end is shown if they fail. A stop signal is passed on; ranks that have not ended
    `grace_s` seconds later are killed, with their data workers. So are the others `grace_s` after
    a rank has failed. Ranks should call `die_with_parent` first; then none outlives this process.

    Returns 0 where every rank did, EXIT_INTERRUPTED where they were stopped and have saved (or had
    nothing yet to save), otherwise what the first rank to fail tells: 2 and 130 as they are, and 1
    for all else. To be called from the main thread.
    """
    with refusing_what_cannot_be_written(logs.parent):
        logs.mkdir(parents=True, exist_ok=True)
    ranks: list[_Rank] = []
    with _Signals() as signals:
        # Here rather than in rank 0: a port that is free now may be taken when it gets there.
        store = _store()
        try:
            for rank in range(num_processes):
                environment = {**os.environ, **_environment(rank, num_processes, store.port)}
                ranks.append(_start(rank, command, environment, logs))
            _supervise(ranks, signals, grace_s)
        finally:
            for rank in ranks:
                rank.kill()
    return _verdict(ranks)


def _store() -> "TCPStore":
    """Where ranks find one another, on a port that is free."""
    # Imported here: torch takes seconds, and a run of one rank needs none of this.
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@dataclass
class _Rank:
    number: int
    process: "subprocess.Popen[bytes]"
    log: Path | None
    sent: set[int] = field(default_factory=set)
    ended_at: float | None = None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; EXIT_INTERRUPTED if our signal came before it could handle one."""
        code = self.process.returncode
        return EXIT_INTERRUPTED if code is not None and -code in self.sent else code

    @property
    def has_failed(self) -> bool:
        return self.exit_code not in (None, 0, EXIT_INTERRUPTED)

    def send(self, number: signal.Signals) -> None:
        """To the rank alone: what its data workers do is its own business."""
        self.sent.add(number)
        self.process.send_signal(number)

    def poll(self) -> None:
        """Notice its end, and end what it leaves of its process group."""
        if self.ended_at is None and self.process.poll() is not None:
            self._end_group()

    def kill(self) -> None:
        """End it now, with its data workers."""
        if self.ended_at is None:
            self._end_group()

    def _end_group(self) -> None:
        # Nobody may be left of it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.ended_at = time.monotonic()


class _Signals:
    """Remembers the stop signals that come in, and puts the handlers back."""

    def __init__(self) -> None:
        self._received: list[signal.Signals] = []
        self._before = {}

    def take(self) -> list[signal.Signals]:
        received = self._received.copy()
        del self._received[: len(received)]
        return received

    def __enter__(self) -> "_Signals":
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received.append(signal.Signals(number))


def _environment(rank: int, num_processes: int, port: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": num_processes,
        "LOCAL_WORLD_SIZE": num_processes,
        "GROUP_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        # `init_process_group` then joins our store instead of opening one in rank 0.
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RESTART_COUNT": 0,
        LAUNCHER_PID: os.getpid(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    if sys.platform.startswith("linux"):
        # Gloo would look for the address of the machine's name, which containers often lack.
        environment["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return {name: str(value) for name, value in environment.items()}


def _start(
    number: int, command: Sequence[str], environment: Mapping[str, str], logs: Path
) -> _Rank:
    log = logs / f"rank-{number}.log" if number else None
    output = open(log, "wb") if log else None  # noqa: SIM115 - the rank's, closed below
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            # A group of its own, so that Ctrl-C comes to us alone, who pass it on once.
            start_new_session=True,
        )  # fmt: skip
    finally:
        if output is not None:
            output.close()
    return _Rank(number, process, log)


def _supervise(ranks: Sequence[_Rank], signals: _Signals, grace_s: float) -> None:
    """Until all ranks have ended or their time is up."""
    deadline: float | None = None
    while running := [rank for rank in ranks if rank.ended_at is None]:
        numbers = signals.take()
        if deadline is None and not numbers and any(rank.has_failed for rank in ranks):
            # The others wait for it in vain.
            numbers = [signal.SIGTERM]
        for rank in running:
            for number in numbers:
                rank.send(number)
        if deadline is None and (numbers or any(rank.exit_code for rank in ranks)):
            deadline = time.monotonic() + grace_s
        if deadline is not None and time.monotonic() >= deadline:
            _say(f"{len(running)} of {len(ranks)} ranks had not ended after {grace_s:g} s and were "
                 "killed; the last checkpoint is kept")  # fmt: skip
            for rank in running:
                rank.kill()
        time.sleep(_POLL_S)
        for rank in running:
            rank.poll()


def _verdict(ranks: Sequence[_Rank]) -> int:
    failed = [rank for rank in ranks if rank.has_failed]
    if not failed:
        return max(rank.exit_code or 0 for rank in ranks)
    first = min(failed, key=lambda rank: rank.ended_at or 0.0)
    code = first.exit_code or EXIT_FAILED
    if code != EXIT_AT_ONCE:
        _show(first, code)
    return code if code in (EXIT_MISTAKE, EXIT_AT_ONCE) else EXIT_FAILED


def _show(rank: _Rank, code: int) -> None:
    """Say how a rank ended, and what it printed last, unless it has said so on the terminal."""
    if code > 0 and rank.log is None:
        return
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    _say(f"rank {rank.number} {how}" + (f"; the end of {rank.log}:" if rank.log else ""))
    if rank.log is not None:
        lines = rank.log.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines[-_LINES_SHOWN:]:
            _say(f"  {line}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
