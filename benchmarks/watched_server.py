"""The real command as a process of its own, with what it holds read from outside: for long runs."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Vitals:
    """What the process holds; `in_flight` does not count the request that asked."""

    rss_bytes: int
    num_descriptors: int
    num_threads: int
    in_flight: int
    waiting: int


@dataclass(frozen=True)
class WatchedServer:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    #: Its folder for temporary files, and what it writes to stderr.
    temporary: Path
    log: Path

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    @property
    def rss_bytes(self) -> int:
        """Memory that it has now."""
        return self._status("VmRSS") * 1024

    def vitals(self) -> Vitals:
        """Everything; asks `/metrics`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            metrics = answer.read().decode()
        # After the answer its connection is closed on both sides.
        descriptors = list(Path(f"/proc/{self.process.pid}/fd").iterdir())
        return Vitals(
            self.rss_bytes,
            len(descriptors),
            self._status("Threads"),
            _sum(metrics, "rtmdet_inflight") - 1,
            _sum(metrics, "rtmdet_queue_depth"),
        )

    def at_rest(self, num_descriptors: int) -> Vitals:
        """What it holds once nothing is under way, or after ten seconds in vain."""
        for _ in range(100):
            vitals = self.vitals()
            is_quiet = vitals.in_flight == vitals.waiting == 0
            if is_quiet and vitals.num_descriptors <= num_descriptors:
                return vitals
            time.sleep(0.1)
        return self.vitals()

    def left_files(self) -> list[str]:
        """Temporary files that were left behind."""
        return sorted(path.name for path in self.temporary.rglob("*"))

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        assert found is not None
        return int(found[1])


@contextmanager
def watched_server(repository: Path, **settings: object) -> Iterator[WatchedServer]:
    """A server that is ready; `settings` are those of the service, by their names."""
    port = _free_port()
    environment = {f"RTMDET_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "temporary")
        temporary.mkdir()
        log = Path(folder, "log")
        with log.open("wb") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", "rtmdet", "serve"],
                cwd=PROJECT,
                env=os.environ
                | {
                    "RTMDET_MODEL_REPOSITORY": str(repository.resolve()),
                    "RTMDET_PORT": str(port),
                    "RTMDET_DRAIN_DELAY_MS": "0",
                    "RTMDET_ACCESS_LOG": "false",
                    "TMPDIR": str(temporary),
                }
                | environment,
                stderr=written,
            )
        server = WatchedServer(process, port, temporary, log)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: WatchedServer) -> None:
    began_s = time.monotonic()
    while time.monotonic() - began_s < _PATIENCE_S and server.is_alive:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server does not start: {server.log.read_text()}")


def _sum(metrics: str, name: str) -> int:
    values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", metrics, re.MULTILINE)
    return round(sum(map(float, values)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
