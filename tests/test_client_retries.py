"""When the client sends a request again: the policy, the exchange that follows it, real servers."""

import asyncio
import io
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import (
    NO_RETRY,
    AsyncClient,
    BadAnswer,
    Client,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    ProblemError,
    Retry,
    TimedOut,
    Unavailable,
    calls,
)
from service.client.answers import Answer
from service.client.exchange import Attempt, Failure, Outcome, Pause, Terms, exchange
from tests.scripted_servers import (
    DETECTED,
    Script,
    Scripted,
    as_json,
    conversing,
    http_answer,
    page,
    problem,
    read_request,
    scripted_server,
)

PICTURE = b"a picture"

LONGEST = Retry(attempts=4, first_pause_s=1.0, longest_pause_s=3.0, chance=lambda: 1.0)


def test_retry__pauses_double_up_to_the_longest_and_end() -> None:
    pauses = [LONGEST.pause_s(failures, remaining_s=math.inf) for failures in range(1, 5)]
    assert pauses == [1.0, 2.0, 3.0, None]


def test_retry__any_part_of_the_pause_may_be_taken() -> None:
    def pause(chance: float) -> float | None:
        return Retry(first_pause_s=1.0, chance=lambda: chance).pause_s(1, remaining_s=9.0)

    assert [pause(0.0), pause(0.25), pause(1.0)] == [0.0, 0.25, 1.0]


def test_retry__what_the_server_asks_for_is_the_least() -> None:
    assert LONGEST.pause_s(1, remaining_s=60.0, asked_s=20.0) == 21.0


def test_retry__pause_that_does_not_fit_is_not_begun() -> None:
    assert LONGEST.pause_s(1, remaining_s=0.9) is None
    assert LONGEST.pause_s(1, remaining_s=20.0, asked_s=20.0) is None


@given(
    first_pause_s=st.floats(0, 10),
    times=st.floats(1, 100),
    attempts=st.integers(1, 3000),
    failures=st.integers(1, 3000),
    chance=st.floats(0, 1),
    remaining_s=st.floats(-10, 1e6) | st.just(math.inf),
    asked_s=st.none() | st.floats(0, 1e6),
)
def test_retry__bounds(
    first_pause_s: float,
    times: float,
    attempts: int,
    failures: int,
    chance: float,
    remaining_s: float,
    asked_s: float | None,
) -> None:
    longest_s = first_pause_s * times
    retry = Retry(attempts, first_pause_s, longest_s, lambda: chance)
    pause_s = retry.pause_s(failures, remaining_s=remaining_s, asked_s=asked_s)
    if failures >= attempts:
        assert pause_s is None
    elif pause_s is None:
        assert remaining_s <= (longest_s if asked_s is None else asked_s + first_pause_s)
    else:
        assert pause_s < remaining_s
        low, high = (0, longest_s) if asked_s is None else (asked_s, asked_s + first_pause_s)
        assert low <= pause_s <= high


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"first_pause_s": -1}, {"first_pause_s": 9}, {"longest_pause_s": math.inf}],
)
def test_retry__refuses_what_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"attempts|pauses"):
        Retry(**wrong)  # pyright: ignore[reportArgumentType]


@dataclass
class Story:
    """What an exchange did, on a clock that only its pauses and `takes_s` move."""

    attempts: list[Attempt] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    error: ClientError | None = None
    value: object = None


def tell(
    *outcomes: Outcome, retry: Retry = LONGEST, timeout_s: float = 100.0, takes_s: float = 0.0
) -> Story:
    now = [1000.0]
    call = calls.detect(PICTURE, (("model", "boxes"),), "png")
    terms = Terms("http://server", timeout_s, retry, lambda: now[0])
    steps = exchange(call, terms, timeout_s=None, request_id=None)
    waiting = list(outcomes)
    story = Story()
    outcome: Outcome | None = None
    try:
        while True:
            step = steps.send(outcome)
            if isinstance(step, Pause):
                story.pauses.append(step.seconds)
                now[0] += step.seconds
                outcome = None
            else:
                story.attempts.append(step)
                now[0] += takes_s
                outcome = waiting.pop(0)
    except StopIteration as end:
        story.value = end.value
    except ClientError as error:
        story.error = error
    assert not waiting, "it ended too early"
    return story


def answer(given: Scripted) -> Answer:
    return Answer(given.status, {"content-type": given.media_type} | given.headers, given.body)


DETECTION = answer(as_json(DETECTED))
OVERLOADED = answer(problem(503, "overloaded"))
UNREACHABLE = Failure("refused")


@pytest.mark.parametrize(
    "passing",
    [
        OVERLOADED,
        answer(problem(429, "rate-limited")),
        answer(page(502)),
        UNREACHABLE,
    ],
    ids=["503", "429", "502", "unreachable"],
)
def test_exchange__what_may_pass_is_tried_again(passing: Outcome) -> None:
    story = tell(passing, passing, DETECTION)
    assert story.pauses == [1.0, 2.0]
    assert story.value is not None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500, 504])
def test_exchange__what_will_not_pass_is_raised_at_once(status: int) -> None:
    story = tell(answer(problem(status, "some-code", retry_after_ms=1)))
    assert isinstance(story.error, ProblemError)
    assert (story.error.status, story.pauses) == (status, [])


@pytest.mark.parametrize(
    "failure", [Failure("broke off", may_pass=False), Failure("timed out", timed_out=True)]
)
def test_exchange__failure_that_another_attempt_does_not_mend(failure: Failure) -> None:
    # Time that is over stands for an attempt that used it up.
    story = tell(failure, timeout_s=1.0, takes_s=1.0)
    assert isinstance(story.error, ConnectionFailed)
    assert story.pauses == []


def test_exchange__last_failure_is_the_one_raised() -> None:
    story = tell(OVERLOADED, UNREACHABLE, OVERLOADED, UNREACHABLE)
    assert isinstance(story.error, ConnectionFailed)
    assert "4 times (refused)" in str(story.error)
    assert len(story.pauses) == 3


@pytest.mark.parametrize(
    "asking",
    [
        problem(503, "overloaded", retry_after_ms=2500),
        # Milliseconds are exact, the header is rounded.
        Scripted(
            503, problem(503, "overloaded", retry_after_ms=2500).body,
            "application/problem+json", {"retry-after": "3"},
        ),
    ],
)  # fmt: skip
def test_exchange__asked_for_in_milliseconds(asking: Scripted) -> None:
    assert tell(answer(asking), DETECTION).pauses == [3.5]


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"retry-after": "7"}, 8.0),
        (
            {
                "retry-after": "Wed, 21 Oct 2015 07:28:30 GMT",
                "date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            31.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 1.0),
        ({"retry-after": "soon"}, 1.0),
        ({"retry-after": "-5"}, 1.0),
    ],
)
def test_exchange__asked_for_in_a_header(headers: dict[str, str], pause_s: float) -> None:
    refused = answer(page(503, **headers))
    assert tell(refused, DETECTION).pauses == [pause_s]


def test_exchange__pause_longer_than_the_time_left_is_not_slept() -> None:
    story = tell(answer(problem(503, "overloaded", retry_after_ms=60_000)), timeout_s=30.0)
    assert isinstance(story.error, Unavailable)
    assert story.error.retry_after_s == 60.0
    assert story.pauses == []


def test_exchange__server_is_told_what_is_left_of_the_time() -> None:
    story = tell(OVERLOADED, OVERLOADED, DETECTION, timeout_s=10.0, takes_s=2.0)
    told = [int(dict(attempt.query)["timeout_ms"]) for attempt in story.attempts]
    # 10 s, then 2 s and a pause of 1 s less, then 2 s and 2 s less; 0.1 s for the way back.
    assert told == [9900, 6900, 2900]
    assert {dict(attempt.query)["model"] for attempt in story.attempts} == {"boxes"}


@pytest.mark.parametrize("timeout_s", [math.inf, 601.0])
def test_exchange__time_beyond_what_a_server_takes_is_not_told(timeout_s: float) -> None:
    assert "timeout_ms" not in dict(tell(DETECTION, timeout_s=timeout_s).attempts[0].query)


def test_exchange__attempts_of_a_call_share_its_id() -> None:
    story = tell(OVERLOADED, UNREACHABLE, DETECTION)
    ids = {attempt.headers["X-Request-ID"] for attempt in story.attempts}
    assert len(ids) == 1
    assert ids != {tell(DETECTION).attempts[0].headers["X-Request-ID"]}


def test_exchange__closed_connection_is_forgiven_once() -> None:
    stale = Failure("closed", was_kept_alive=True)
    assert tell(stale, DETECTION, retry=NO_RETRY).pauses == []
    assert isinstance(tell(stale, stale, retry=NO_RETRY).error, ConnectionFailed)
    # And is no failure of the server's.
    assert tell(stale, OVERLOADED, OVERLOADED, OVERLOADED, DETECTION).pauses == [1.0, 2.0, 3.0]


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with scripted_server() as script:
        yield script


@pytest.fixture(params=["sync", "async"])
def detect(request: pytest.FixtureRequest) -> Callable[..., list[float]]:
    """Detects with a new client of either kind and gives the pauses that it made."""

    def detect_sync(url: str, *, times: int = 1, picture: object = PICTURE, **settings) -> list:
        pauses: list[float] = []
        with Client(url, sleep=pauses.append, **settings) as client:
            for _ in range(times):
                client.detect(picture)
        return pauses

    async def detect_async(url: str, *, times: int = 1, picture: object = PICTURE, **settings):
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        async with AsyncClient(url, sleep=sleep, **settings) as client:
            for _ in range(times):
                await client.detect(picture)
        return pauses

    if request.param == "sync":
        return detect_sync
    return lambda *args, **settings: asyncio.run(detect_async(*args, **settings))


def test_client__overcomes_two_refusals_of_a_real_server(
    detect, tmp_path: Path, script: Script
) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(bytes(range(256)) * 4096)
    refusal = problem(503, "overloaded", retry_after_ms=20)
    url, seen = script(refusal, refusal, as_json(DETECTED))
    pauses = detect(url, picture=path)
    assert len(pauses) == 2
    assert all(0.02 <= pause <= 0.27 for pause in pauses)
    # The file is sent whole every time, and announced: nothing is sent in chunks.
    assert [request.body == path.read_bytes() for request in seen] == [True] * 3
    assert {request.headers["content-length"] for request in seen} == {str(256 * 4096)}


def test_client__open_files_and_pipes_are_sent_again(detect, script: Script) -> None:
    within = io.BytesIO(b"before" + PICTURE)
    within.seek(6)
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(PICTURE)
    with open(reading, "rb") as pipe:
        for picture in (within, pipe):
            url, seen = script(problem(503, "overloaded"), as_json(DETECTED))
            detect(url, picture=picture)
            assert [request.body for request in seen] == [PICTURE] * 2


def test_client__gives_up_after_the_last_attempt(detect, script: Script) -> None:
    url, seen = script(problem(503, "overloaded"))
    with (
        pytest.raises(Unavailable, match=r"do this \[503 overloaded\] \(request req_server\)"),
    ):
        detect(url, retry=Retry(attempts=3))
    assert len(seen) == 3


def test_client__deadline_of_the_server_is_not_retried(detect, script: Script) -> None:
    url, seen = script(problem(504, "deadline-exceeded"))
    with pytest.raises(DeadlineExceeded) as raised:
        detect(url)
    assert isinstance(raised.value, TimeoutError)
    assert len(seen) == 1


def test_client__keep_alive_connection_that_the_server_closes(detect) -> None:
    """It reads the second request, so that the client cannot know before."""

    def answer_once_and_close(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(http_answer())
        read_request(connection)

    def answer_again(connection: socket.socket) -> None:
        assert read_request(connection).endswith(PICTURE)
        connection.sendall(http_answer())

    with conversing(answer_once_and_close, answer_again) as url:
        assert detect(url, times=2, retry=NO_RETRY) == []


def test_client__connection_closed_before_the_answer_is_a_failure(detect) -> None:
    def answer_nothing(connection: socket.socket) -> None:
        read_request(connection)

    def answer_well(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(http_answer())

    with conversing(answer_nothing, answer_well) as url:
        assert len(detect(url)) == 1
    with conversing(answer_nothing, answer_well) as url, pytest.raises(ConnectionFailed):
        detect(url, retry=NO_RETRY)


def test_client__answer_that_breaks_off_is_not_asked_for_again(detect) -> None:
    def answer_half(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(http_answer()[:-10])

    with conversing(answer_half) as url, pytest.raises(ConnectionFailed, match="broke off"):
        detect(url)


def test_client__answer_that_is_no_http(detect) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        read_request(connection)

    with conversing(greet) as url, pytest.raises(ConnectionFailed, match="is this its address"):
        detect(url, retry=NO_RETRY)


def test_client__silence_ends_with_the_time(detect) -> None:
    done = threading.Event()

    def say_nothing(connection: socket.socket) -> None:
        read_request(connection)
        done.wait(30)

    with conversing(say_nothing) as url:
        with pytest.raises(TimedOut, match="timeout_s") as raised:
            detect(url, timeout_s=0.2)
        done.set()
    assert isinstance(raised.value, TimeoutError)
    assert raised.value.request_id


def test_client__trickle_ends_with_the_time(detect) -> None:
    """Every byte comes in time; all of them do not."""

    def trickle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            # Ends at once when the client goes away.
            connection.settimeout(0.02)
            try:
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                pass

    with conversing(trickle) as url, pytest.raises(TimedOut):
        detect(url, timeout_s=0.3)


def test_client__nobody_listens(detect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ConnectionFailed, match=r"2 times .* is the server running"):
        detect(url, retry=Retry(attempts=2))


def test_client__another_kind_of_server_is_not_retried(detect, script: Script) -> None:
    url, seen = script(page(404))
    with (
        pytest.raises(BadAnswer, match="check the address"),
    ):
        detect(url)
    assert len(seen) == 1
