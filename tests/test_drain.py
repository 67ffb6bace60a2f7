"""How the server ends: by one signal, by two, by SIGKILL; ready, loading, under load."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.http_api.serving.accepting import refuse_handshakes
from tests.conftest import PROJECT
from tests.repositories import write_model
from tests.serving_process import (
    PATIENCE_S,
    ServingProcess,
    get,
    held_server,
    post,
    read_all,
    read_answer,
    ready_server,
    serving_process,
    wait_until,
)

PICTURE = cv2.imencode(".png", np.full((64, 96, 3), 9, np.uint8))[1].tobytes()

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    write_model(root, "boxes")
    return root


class LoadingClient:
    """Asks for detections on one connection, as long as there is somebody who listens."""

    def __init__(self, serving: ServingProcess) -> None:
        self._serving = serving
        self.num_answered = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._use_one_connection():
                pass
        except OSError as error:
            self.failures.append(repr(error))

    def _use_one_connection(self) -> bool:
        """Whether there may be another one."""
        try:
            connection = self._serving.connect()
        except ConnectionRefusedError:
            return False
        with closing(connection):
            used = False
            while True:
                try:
                    connection.sendall(post(PICTURE))
                    status, headers, _ = read_answer(connection)
                except ConnectionError:
                    if not used:
                        raise
                    # An idle connection may end at any time: every client then asks again.
                    return True
                used = True
                if status == 200:
                    self.num_answered += 1
                else:
                    self.failures.append(str(status))
                if headers.get("connection") == "close":
                    return True


@contextmanager
def load(serving: ServingProcess, num_clients: int = 12) -> Iterator[list[LoadingClient]]:
    """Clients that have all been answered when the block begins."""
    clients = [LoadingClient(serving) for _ in range(num_clients)]
    wait_until(lambda: all(client.num_answered for client in clients))
    yield clients
    for client in clients:
        client.join()


@SIGNALS
def test_drain__no_request_under_load_fails(repository: Path, number: signal.Signals) -> None:
    with ready_server(repository, drain_delay_ms=300) as serving:
        with load(serving) as clients:
            serving.stop(number)
        assert serving.wait() == 0
        assert [client.failures for client in clients] == [[]] * len(clients)
        assert "in flight" in serving.log.wait_for("draining")
        assert serving.log.wait_for("stopped: every request was answered")


def test_drain__readiness_goes_first(repository: Path) -> None:
    """For 10 minutes here: requests are taken, and connections do not stay."""
    with ready_server(repository, drain_delay_ms=600_000) as serving:
        with closing(serving.connect()) as kept:
            kept.sendall(get("/readyz"))
            assert read_answer(kept)[0] == 200
            serving.stop(signal.SIGTERM)
            serving.log.wait_for("draining")
            kept.sendall(get("/readyz"))
            status, headers, body = read_answer(kept)
            assert (status, json.loads(body)["status"]) == (503, "draining")
            assert headers["connection"] == "close"
            assert read_all(kept) == b""
        with closing(serving.connect()) as late:
            late.sendall(post(PICTURE))
            status, headers, _ = read_answer(late)
            assert (status, headers["connection"]) == (200, "close")
        assert serving.process.poll() is None


def test_drain__what_is_in_flight_is_finished(repository: Path) -> None:
    with held_server(repository) as serving, closing(serving.connect()) as connection:
        connection.sendall(post(PICTURE))
        serving.stdout.wait_for("called")
        serving.stop(signal.SIGTERM)
        assert "draining, requests in flight: 1;" in serving.log.wait_for("draining")
        serving.release()
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert serving.wait() == 0


def test_drain__client_that_has_just_connected_is_served(repository: Path) -> None:
    with held_server(repository) as serving:
        with closing(serving.connect()) as busy, closing(serving.connect()) as fresh:
            busy.sendall(post(PICTURE))
            serving.stdout.wait_for("called")
            serving.stop(signal.SIGTERM)
            wait_until(lambda: not is_listening(serving.port))
            fresh.sendall(get("/livez"))
            assert read_answer(fresh)[0] == 200
            serving.release()
            assert read_answer(busy)[0] == 200
        assert serving.wait() == 0


def is_listening(port: int) -> bool:
    """Without connecting, which takes a second once handshakes are refused."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(f":{port:04X} 00000000:0000 0A" in row for row in table)


def test_refuse_handshakes__those_that_are_done_stay() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with closing(socket.create_connection(address)) as early, closing(socket.socket()) as late:
            refuse_handshakes(listener)
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.connect(address)
            with closing(listener.accept()[0]) as accepted:
                early.sendall(b"request")
                assert accepted.recv(100) == b"request"
                accepted.sendall(b"answer")
                assert early.recv(100) == b"answer"


@SIGNALS
def test_drain__second_signal_ends_at_once(repository: Path, number: signal.Signals) -> None:
    """Though a call of the runtime never ends, and requests would be taken for 10 minutes."""
    with (
        held_server(repository, drain_delay_ms=600_000) as serving,
        closing(serving.connect()) as connection,
    ):
        connection.sendall(post(PICTURE))
        serving.stdout.wait_for("called")
        serving.stop(signal.SIGTERM)
        serving.log.wait_for("draining")
        serving.stop(number)
        assert serving.process.wait(10) == 128 + number
        assert read_all(connection) == b""


def test_stop_signals__a_thread_that_hangs_keeps_nobody_from_ending() -> None:
    script = (
        "import threading\n"
        "from service.http_api.serving.stopping import StopSignals\n"
        "StopSignals().end_within(0.1)\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=PROJECT, check=False, timeout=PATIENCE_S).returncode == 1


def test_drain__ctrl_c_waits_for_nobody(repository: Path) -> None:
    with ready_server(repository, drain_delay_ms=600_000) as serving:
        with closing(serving.connect()) as idle:
            idle.sendall(get("/livez"))
            read_answer(idle)
            serving.stop(signal.SIGINT)
            assert serving.wait() == 0
            assert read_all(idle) == b""
        assert "Ctrl-C" in serving.log.wait_for("draining")


@pytest.mark.slow
def test_drain__what_does_not_end_is_cut(repository: Path) -> None:
    with ready_server(repository, request_timeout_ms=1) as serving:
        with closing(serving.connect()) as connection:
            connection.sendall(post(PICTURE, "Expect: 100-continue")[:-1])
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
            serving.stop(signal.SIGTERM)
            assert serving.wait() == 1
            assert read_all(connection) == b""
        assert serving.log.wait_for("stopped: requests cut off: 1")


@SIGNALS
def test_drain__signal_while_models_load(repository: Path, number: signal.Signals) -> None:
    program = ("tests.held_serving", "loading")
    with serving_process(repository, program=program) as serving:
        serving.stdout.wait_for("loading")
        serving.stop(number)
        assert serving.wait() == 0
        lines = serving.log.all()
    assert any("stopped before the models were loaded" in line for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_kill__restart_on_the_same_port_works_at_once(repository: Path) -> None:
    with ready_server(repository) as serving:
        clients = [LoadingClient(serving) for _ in range(8)]
        wait_until(lambda: all(client.num_answered for client in clients))
        serving.stop(signal.SIGKILL)
        assert serving.wait() == -signal.SIGKILL
        for client in clients:
            client.join()
    with ready_server(repository, port=serving.port) as again:
        assert again.port == serving.port
        with closing(again.connect()) as connection:
            connection.sendall(post(PICTURE))
            assert read_answer(connection)[0] == 200


def test_serving__leaves_no_files(repository: Path, tmp_path: Path) -> None:
    """Not even when it is killed in the middle of a request."""
    (folder := tmp_path / "temporary").mkdir()
    before = sorted(repository.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        with held_server(repository) as serving, closing(serving.connect()) as connection:
            connection.sendall(post(PICTURE))
            serving.stdout.wait_for("called")
            serving.stop(signal.SIGKILL)
            serving.wait()
    assert list(folder.iterdir()) == []
    assert sorted(repository.rglob("*")) == before
