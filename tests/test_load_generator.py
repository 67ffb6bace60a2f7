"""The load generator against real servers of known manners."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from service.load_testing.campaign import RefusedTrial, RunPlan
from service.load_testing.connections import CannotConnect, ConnectionPool
from service.load_testing.exchanges import Exchange, Outcome
from service.load_testing.generator import OpenLoop, closed_loop
from service.load_testing.objectives import parse_objective
from service.load_testing.order import BenchOrder, carry_out, run_on_time
from service.load_testing.progress import Progress
from service.load_testing.request_bytes import Picture, RequestShape, build_request, parse_target
from service.load_testing.statistics import figures_of
from tests import load_targets
from tests.load_targets import Target, running

PICTURE = Picture(b"a picture" * 1000, "a.jpg")


def request(port: int) -> bytes:
    target = parse_target(f"http://127.0.0.1:{port}/detect")
    return build_request(target, RequestShape(), PICTURE)


def offer(
    port: int, times_s: Sequence[float], *, timeout_s: float = 30.0, max_connections: int = 1000
) -> list[Exchange]:
    """An open loop against a server."""

    async def run() -> list[Exchange]:
        pool = ConnectionPool(
            "127.0.0.1", port, timeout_s=timeout_s, max_connections=max_connections
        )
        await pool.find_address()
        try:
            return await OpenLoop(pool, [request(port)], times_s).run()
        finally:
            await pool.close()

    return run_on_time(run())


def outcomes(exchanges: Sequence[Exchange]) -> set[Outcome]:
    return {each.outcome for each in exchanges}


def test_open_loop__sends_everything_once_and_reuses_connections() -> None:
    times_s = [index * 0.01 for index in range(50)]
    with running(load_targets.answers) as target:
        exchanges = offer(target.port, times_s)
        assert len(target.requests) == 50
        assert target.requests[0][1] == PICTURE.content
        assert target.num_connections < 50
    assert [each.scheduled_s for each in exchanges] == times_s
    assert outcomes(exchanges) == {Outcome.ANSWERED}
    assert all(each.lag_s >= 0 and each.service_s > 0 for each in exchanges)


def test_open_loop__a_stall_shows_in_everybody_who_came_meanwhile() -> None:
    """Coordinated omission: a closed loop sees one slow request, and misses those in between."""
    stall_s, gap_s = 0.5, 0.01
    with running(load_targets.stalls_once(20, stall_s)) as target:
        opened = offer(target.port, [index * gap_s for index in range(100)])
    with running(load_targets.stalls_once(20, stall_s)) as target:
        closed = one_by_one(target.port, 100)
    # Fifty come while the server stands still: they wait for what is left of it, and so wait 0.1 s
    # or longer as long as 0.4 s have not passed.
    open_waited = [each for each in opened if each.latency_s > 0.1]
    closed_waited = [each for each in closed if each.latency_s > 0.1]
    assert len(open_waited) >= 38
    assert 1 <= len(closed_waited) < len(open_waited) / 3
    figures = figures_of(opened, rate_per_s=100, seconds=1)
    naive = figures_of(closed, rate_per_s=100, seconds=1)
    assert figures.latency is not None
    assert naive.latency is not None
    assert figures.latency.percentiles_s["p90"] > 0.35
    assert naive.latency.percentiles_s["p50"] < 0.1 < figures.latency.percentiles_s["p95"]


def one_by_one(port: int, number: int) -> list[Exchange]:
    """What a client measures that waits for each answer."""

    async def run() -> list[Exchange]:
        pool = ConnectionPool("127.0.0.1", port)
        await pool.find_address()
        found: list[Exchange] = []
        while len(found) < number:
            found += await closed_loop(pool, [request(port)], num_clients=1, seconds=0.05)
        await pool.close()
        return found[:number]

    return run_on_time(run())


def test_closed_loop__keeps_its_number_of_clients() -> None:
    under_way = most = 0

    async def answer(target: Target, number: int) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return load_targets.OK

    async def run(port: int) -> list[Exchange]:
        pool = ConnectionPool("127.0.0.1", port)
        await pool.find_address()
        found = await closed_loop(pool, [request(port)], num_clients=3, seconds=0.3)
        await pool.close()
        return found

    with running(answer) as target:
        exchanges = run_on_time(run(target.port))
        assert len(exchanges) == len(target.requests)
    assert most == 3
    assert outcomes(exchanges) == {Outcome.ANSWERED}


def test_open_loop__refusals_are_counted_apart() -> None:
    with running(load_targets.refuses) as target:
        exchanges = offer(target.port, [0.0, 0.01, 0.02])
    figures = figures_of(exchanges, rate_per_s=100, seconds=0.03)
    assert (figures.counts.refused, figures.counts.failed, figures.counts.answered) == (3, 0, 0)
    assert figures.statuses == {503: 3}
    assert figures.latency is None


def test_open_loop__closed_connections_are_failures() -> None:
    with running(load_targets.closes) as target:
        exchanges = offer(target.port, [0.0, 0.01, 0.02])
    figures = figures_of(exchanges, rate_per_s=100, seconds=0.03)
    assert figures.failures == {"the connection was closed": 3}


def test_open_loop__gives_up_a_server_that_never_answers() -> None:
    with running(load_targets.never_answers) as target:
        exchanges = offer(target.port, [0.0, 0.01, 0.02], timeout_s=0.2)
        assert len(target.requests) == 3
    figures = figures_of(exchanges, rate_per_s=100, seconds=0.03)
    assert figures.failures == {"no answer within 0.2 s": 3}
    # Timers have a millisecond's resolution.
    assert all(each.service_s >= 0.198 for each in exchanges)


def test_open_loop__without_a_free_connection_nothing_is_sent_and_the_run_is_invalid() -> None:
    with running(load_targets.never_answers) as target:
        exchanges = offer(target.port, [0.0, 0.01, 0.02], timeout_s=0.5, max_connections=2)
        assert len(target.requests) == 2
    figures = figures_of(exchanges, rate_per_s=100, seconds=0.03)
    assert (figures.counts.sent, figures.counts.unsent) == (2, 1)
    assert not figures.is_valid
    assert "1 of 3 requests found no free connection" in figures.problems[0]


def test_open_loop__a_generator_that_is_held_up_says_so() -> None:
    async def run(port: int) -> list[Exchange]:
        pool = ConnectionPool("127.0.0.1", port)
        await pool.find_address()
        loop = OpenLoop(pool, [request(port)], [0.0, 0.1, 0.2])
        # Something else takes the only thread when the second request should leave.
        asyncio.get_running_loop().call_later(0.1, time.sleep, 0.3)
        found = await loop.run()
        await pool.close()
        return found

    with running(load_targets.answers) as target:
        exchanges = run_on_time(run(target.port))
    assert max(each.lag_s for each in exchanges) > 0.1
    # What it was late by is in the latency, not lost.
    assert all(each.latency_s >= each.lag_s for each in exchanges)
    assert not figures_of(exchanges, rate_per_s=10, seconds=0.3, max_lag_s=0.02).is_valid


def test_answers__chunked_after_continue_with_server_timing() -> None:
    async def answer(target: Target, number: int) -> bytes:
        return load_targets.CHUNKED

    with running(answer) as target:
        exchanges = offer(target.port, [0.0, 0.05, 0.1])
        assert target.num_connections < 3
    figures = figures_of(exchanges, rate_per_s=20, seconds=0.15)
    assert figures.counts.answered == 3
    assert figures.stages_s["decode"] == pytest.approx((0.0025, 0.0025))
    assert figures.stages_s["infer"] == pytest.approx((0.01, 0.01))
    assert list(figures.stages_s) == ["decode", "infer", "rest"]


@pytest.mark.parametrize(
    ("content", "outcome", "says"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", Outcome.ANSWERED, ""),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Outcome.ANSWERED,
            "",
        ),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Outcome.ANSWERED, ""),
        (b"HTTP/1.1 504 X\r\nContent-Length: 0\r\n\r\n", Outcome.EXPIRED, ""),
        (b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops", Outcome.FAILED, "status 500"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Outcome.FAILED, "no HTTP"),
    ],
)
def test_answers__count_as(content: bytes, outcome: Outcome, says: str) -> None:
    async def answer(target: Target, number: int) -> bytes:
        return content

    with running(answer) as target:
        exchanges = offer(target.port, [0.0, 0.1])
    assert [each.outcome for each in exchanges] == [outcome, outcome]
    assert exchanges[0].answer is not None
    assert says in (exchanges[0].answer.failure or f"status {exchanges[0].answer.status}")


def test_answers__half_an_answer_is_a_failure() -> None:
    async def answer(target: Target, number: int) -> bytes:
        for writer in target._writers:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        raise ConnectionResetError

    with running(answer) as target:
        exchanges = offer(target.port, [0.0])
    assert outcomes(exchanges) == {Outcome.FAILED}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of nobody anybody trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run([openssl, *command, *names, *files], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def order(port: int, *, scheme: str = "http", insecure: bool = False) -> BenchOrder:
    return BenchOrder(
        target=parse_target(f"{scheme}://127.0.0.1:{port}/detect"),
        shape=RequestShape(),
        pictures=[PICTURE],
        plan=RunPlan(seconds=0.4, warm_up_s=0.1, pause_s=0.0, arrivals="uniform", max_lag_s=10.0),
        rates_per_s=[50.0, 100.0],
        timeout_s=10.0,
        takes_any_certificate=insecure,
    )


def test_bench__over_tls(certificate: Path) -> None:
    with running(load_targets.answers, certificate=certificate) as target:
        bench = carry_out(order(target.port, scheme="https", insecure=True), Progress(None))
    assert [run.counts.answered for run in bench.runs] == [20, 40]


def test_bench__a_certificate_that_nobody_trusts_is_refused(certificate: Path) -> None:
    with (
        running(load_targets.answers, certificate=certificate) as target,
        pytest.raises(CannotConnect, match="--insecure"),
    ):
        carry_out(order(target.port, scheme="https"), Progress(None))


def test_bench__warm_up_is_sent_and_not_counted() -> None:
    with running(load_targets.answers) as target:
        bench = carry_out(order(target.port), Progress(None))
        # One to try, then 25 and 50.
        assert len(target.requests) == 76
    assert [run.counts.scheduled for run in bench.runs] == [20, 40]
    assert all(run.points[:, 0].min() >= 0.1 for run in bench.runs)
    assert bench.is_sound


def test_bench__a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CannotConnect, match=rf"127.0.0.1:{port}: connection refused; is the"):
        carry_out(order(port), Progress(None))


def test_bench__a_request_that_is_wrong_is_told_at_once() -> None:
    async def answer(target: Target, number: int) -> bytes:
        return b"HTTP/1.1 404 X\r\nContent-Length: 11\r\n\r\nno  such\nid"

    with running(answer) as target:
        with pytest.raises(RefusedTrial, match="the server answers 404: no such id"):
            carry_out(order(target.port), Progress(None))
        assert len(target.requests) == 1


def test_search__ends_below_what_the_server_takes_no_more() -> None:
    plan = RunPlan(seconds=0.25, warm_up_s=0.0, pause_s=0.0, arrivals="uniform", max_lag_s=10.0)
    # A trial and two runs of ten requests at 40/s are all that it ever takes.
    num_taken = 1 + 2 * 10

    async def answer(target: Target, number: int) -> bytes:
        return load_targets.OK if number < num_taken else load_targets.BUSY

    with running(answer) as target:
        wanted = replace(
            order(target.port),
            plan=plan,
            rates_per_s=[40.0],
            objectives=[parse_objective("goodput=0.99")],
        )
        bench = carry_out(wanted, Progress(None))
    assert bench.search is not None
    assert bench.search.rate_per_s == 40.0
    assert [how for _, how in bench.search.runs[:4]] == ["kept", "kept", "broken", "broken"]
    assert bench.search.runs[-1][0].rate_per_s < 42.0
    assert bench.search.evidence()["goodput=0.99"][:2] == (0, 20)
