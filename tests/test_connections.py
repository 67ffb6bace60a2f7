"""What strangers may send, and what one client can do to the others: raw bytes, a real server."""

import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from service.http_api.serving.connections import ConnectionTable, NoRoom, client_of
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
    wait_until,
)

PICTURE = cv2.imencode(".png", np.full((64, 96, 3), 9, np.uint8))[1].tobytes()

POST = b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = get("/livez")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    write_model(root, "boxes")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServingProcess]:
    with ready_server(repository) as serving:
        yield serving


@pytest.fixture(scope="module")
def impatient(repository: Path) -> Iterator[ServingProcess]:
    """A server for clients that never do what they should."""
    names = ("header", "body", "write", "idle")
    with ready_server(repository, **{f"{name}_timeout_ms": 300 for name in names}) as serving:
        yield serving


def exchange(serving: ServingProcess, sent: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    with closing(serving.connect()) as connection:
        connection.sendall(sent)
        return read_all(connection)


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def assert_alive(serving: ServingProcess) -> None:
    with closing(serving.connect()) as connection:
        connection.sendall(post(PICTURE))
        assert read_answer(connection)[0] == 200
    assert serving.process.poll() is None
    assert not [line for line in serving.log.lines if "Traceback" in line or " ERROR " in line]


# -- messages


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS hello"),
        pytest.param(b"\x00\xff\xfe garbage \r\n\r\n", 400, id="garbage"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(b"GET /livez\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param(b"GET /livez HTTP/1.1\nHost: localhost\n\n", 400, id="bare LF"),
        pytest.param(b"GET /livez HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(get("/livez", "Host: other"), 400, id="two hosts"),
        pytest.param(get("/livez", "X: a\x00b"), 400, id="NUL"),
        pytest.param(get("/livez", "X: a\r b"), 400, id="bare CR"),
        pytest.param(get("/livez", "X: a\r\n folded"), 400, id="folded"),
        pytest.param(b"CONNECT test:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 501, id="CONNECT"),
        pytest.param(b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, id="odd path"),
        pytest.param(b"GET ftp:x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="odd target"),
        pytest.param(POST + b"Content-Length: -5\r\n\r\nabcde", 400, id="negative length"),
        pytest.param(POST + b"Content-Length: +5\r\n\r\nabcde", 400, id="signed length"),
        pytest.param(POST + b"Content-Length: 9" + b"9" * 30 + b"\r\n\r\n", 400, id="huge length"),
        pytest.param(CHUNKED + b"f" * 17 + b"\r\nabc", 400, id="huge chunk"),
        pytest.param(CHUNKED + b"-1\r\nabc\r\n", 400, id="negative chunk"),
        pytest.param(CHUNKED + b"3\r\nabcX", 400, id="chunk longer than said"),
        pytest.param(CHUNKED + b"3;" + b"x" * 50_000, 400, id="endless chunk extension"),
        pytest.param(CHUNKED + b"1\r\nx\r\n" * 20_000, 400, id="tiny chunks"),
        pytest.param(CHUNKED + b"0\r\nX: " + b"x" * 50_000, 400, id="endless trailer"),
        pytest.param(get("/livez", "X: " + "x" * 33_000), 431, id="long header"),
        pytest.param(get("/livez", *["X: x"] * 100), 431, id="many headers"),
        pytest.param(get("/livez?" + "x" * 33_000), 431, id="long target"),
        pytest.param(b"GET /livez HTTP/1.1\r\nX: " + b"x" * 300_000, 431, id="endless header"),
        pytest.param(b"GET /livez?" + b"x" * 300_000, 431, id="endless target"),
        pytest.param(b"\r\n" * 50_000, 431, id="nothing but line ends"),
    ],
)
def test_message__that_cannot_be_read(server: ServingProcess, sent: bytes, status: int) -> None:
    received = exchange(server, sent) if status != 404 else exchange_and_close(server, sent)
    assert statuses(received) == [status]
    assert b"application/problem+json" in received
    if status != 404:
        assert b"connection: close" in received
    assert_alive(server)


def exchange_and_close(serving: ServingProcess, sent: bytes) -> bytes:
    """For requests that the server can read: it would keep the connection."""
    with closing(serving.connect()) as connection:
        connection.sendall(sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        return read_all(connection)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param(b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400, id="CL.TE"),
        pytest.param(b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400, id="TE.CL"),
        pytest.param(b"Content-Length: 5\r\nContent-Length: 0", 400, id="two lengths"),
        pytest.param(b"Content-Length: 5, 0", 400, id="list of lengths"),
        pytest.param(b"Content-Length : 5", 400, id="space before the colon"),
        pytest.param(b"Transfer-Encoding: xchunked", 501, id="unknown encoding"),
        pytest.param(b"Transfer-Encoding: gzip, chunked", 501, id="two encodings"),
        pytest.param(b"Transfer-Encoding: chunked, identity", 400, id="chunked is not last"),
        pytest.param(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", 400, id="two fields"),
        pytest.param(b"Transfer-Encoding: \x0bchunked", 400, id="odd space"),
    ],
)
def test_message__smuggles_no_second_request(
    server: ServingProcess, fields: bytes, status: int
) -> None:
    received = exchange(server, POST + fields + b"\r\n\r\n0\r\n\r\n" + SMUGGLED)
    assert statuses(received) == [status]


def test_message__chunked_http_1_0_is_refused(server: ServingProcess) -> None:
    sent = b"POST /detect HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert statuses(exchange(server, sent)) == [400]


def test_message__trailer_adds_nothing_to_the_head(server: ServingProcess) -> None:
    """Here it would choose the answer's identity."""
    body = b"%x\r\n%s\r\n0\r\nX-Request-ID: trailed\r\n\r\n" % (len(PICTURE), PICTURE)
    with closing(server.connect()) as connection:
        connection.sendall(CHUNKED + body)
        status, headers, _ = read_answer(connection)
    assert status == 200
    assert headers["x-request-id"] != "trailed"


def test_message__refusal_says_what_is_wrong(server: ServingProcess) -> None:
    assert b"speaks http, not https" in exchange(server, b"\x16\x03\x01\x02\x00")
    received = exchange(server, get("/livez", *["X: x"] * 100))
    assert b"more than 100 header fields" in received
    assert b"x-request-id: req_" in received
    assert b"x-content-type-options: nosniff" in received


def test_upgrade__is_declined_and_the_request_answered(server: ServingProcess) -> None:
    """As clients send that try HTTP/2 first, Java's for one: with every request."""
    fields = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with closing(server.connect()) as connection:
        for _ in range(3):
            request = post(PICTURE, *fields)
            connection.sendall(request[:-100])
            connection.sendall(request[-100:])
            assert read_answer(connection)[0] == 200
        connection.sendall(get("/livez", "Connection: upgrade, close", "Upgrade: websocket"))
        assert read_answer(connection)[0] == 200
        assert read_all(connection) == b""


def test_upgrade__smuggles_nothing(server: ServingProcess) -> None:
    fields = ("Connection: Upgrade", "Upgrade: websocket", f"Content-Length: {len(SMUGGLED)}")
    received = exchange(server, get("/livez", *fields) + SMUGGLED + get("/no", "Connection: close"))
    assert statuses(received) == [200, 404]


def test_expect__body_that_was_not_asked_for_is_not_read_as_a_request(
    server: ServingProcess,
) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(post(b"", "Expect: 100-continue").replace(b": 0", b": 99999999"))
        assert read_answer(connection)[0] == 413
        assert read_all(connection) == b""


# -- several requests on a connection


def test_pipelining__answers_keep_their_order(server: ServingProcess) -> None:
    names = [f"request-{number}" for number in range(10)]
    requests = [get("/livez", f"X-Request-ID: {name}") for name in names]
    requests[-1] = requests[-1].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received = exchange(server, b"".join(requests))
    assert re.findall(rb"x-request-id: (\S+)", received) == [name.encode() for name in names]


def test_pipelining__too_far_ahead_ends_the_connection(server: ServingProcess) -> None:
    received = exchange(server, get("/livez") * 5_000)
    assert set(statuses(received)) == {200}
    assert len(statuses(received)) < 100
    assert b"connection: close" in received.rpartition(b"HTTP/1.1 200")[2]
    assert_alive(server)


def test_pipelining__garbage_does_not_overtake_the_answer_before_it(repository: Path) -> None:
    with held_server(repository) as serving, closing(serving.connect()) as connection:
        connection.sendall(post(PICTURE) + b"garbage\r\n\r\n")
        serving.stdout.wait_for("called")
        serving.release()
        assert statuses(read_all(connection)) == [200]


def test_keep_alive__many_requests_on_one_connection(server: ServingProcess) -> None:
    with closing(server.connect()) as connection:
        for _ in range(50):
            connection.sendall(post(PICTURE))
            assert read_answer(connection)[0] == 200


def test_keep_alive__goes_on_after_a_body_that_nobody_wanted(server: ServingProcess) -> None:
    """The answer comes before the body, which is then read and forgotten."""
    with closing(server.connect()) as connection:
        connection.sendall(
            b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        )
        assert read_answer(connection)[0] == 404
        connection.sendall(b"x" * 100_000 + get("/livez"))
        assert read_answer(connection)[0] == 200


# -- clients that stop half-way


def test_slow__head(impatient: ServingProcess) -> None:
    """It makes no difference that a byte comes now and then."""
    with closing(impatient.connect()) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        assert statuses(drip(connection)) == [408]


def test_slow__silent_connection_is_closed_without_a_word(impatient: ServingProcess) -> None:
    assert exchange(impatient, b"") == b""


def test_slow__body(impatient: ServingProcess) -> None:
    with closing(impatient.connect()) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        assert statuses(drip(connection)) == [408]


def test_slow__huge_chunk(impatient: ServingProcess) -> None:
    assert statuses(exchange(impatient, CHUNKED + b"f" * 16 + b"\r\nabc")) == [408]


def test_slow__body_that_nobody_wants(impatient: ServingProcess) -> None:
    """Answered at once, and not read for ever."""
    with closing(impatient.connect()) as connection:
        connection.sendall(
            b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
        )
        assert statuses(drip(connection)) == [404]


def test_slow__idle_connection_is_closed(impatient: ServingProcess) -> None:
    with closing(impatient.connect()) as connection:
        connection.sendall(get("/livez"))
        assert read_answer(connection)[0] == 200
        assert read_all(connection) == b""


def test_slow__line_ends_do_not_keep_a_connection(impatient: ServingProcess) -> None:
    with closing(impatient.connect()) as connection:
        connection.sendall(get("/livez"))
        assert read_answer(connection)[0] == 200
        assert statuses(drip(connection, b"\r\n")) == [408]


def drip(connection: socket.socket, piece: bytes = b"x") -> bytes:
    """Send a little now and then, until the server has had enough; what came back."""
    received = b""
    connection.settimeout(0.05)
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            connection.sendall(piece)
            if not (answer := connection.recv(65536)):
                return received
            received += answer
        except TimeoutError:
            continue
        except ConnectionError:
            return received
    raise TimeoutError("the server lets the client go on for ever")


def test_slow__client_that_never_reads_its_answers(impatient: ServingProcess) -> None:
    """It may go on asking."""
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", impatient.port))
        with pytest.raises(ConnectionError):
            ask_without_reading(connection)
    assert_alive(impatient)


def ask_without_reading(connection: socket.socket) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        connection.sendall(get("/openapi.json"))
        # Not so fast that it counts as being ahead.
        time.sleep(0.003)


def num_sockets(serving: ServingProcess) -> int:
    found = 0
    for link in Path(f"/proc/{serving.process.pid}/fd").iterdir():
        # It may be closed meanwhile.
        with suppress(FileNotFoundError):
            found += "socket" in str(link.readlink())
    return found


def test_half_close__means_that_the_client_has_gone(repository: Path) -> None:
    """Its request is given up: nobody can tell it from a client that closed."""
    with held_server(repository) as serving, closing(serving.connect()) as connection:
        connection.sendall(post(PICTURE))
        serving.stdout.wait_for("called")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""
        assert serving.process.poll() is None


# -- many connections


def test_connections__a_thousand_idle_ones_of_one_client_harm_nobody(
    server: ServingProcess,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack, closing(server.connect()) as other:
        for _ in range(1000):
            stack.enter_context(closing(server.connect(source="127.0.0.2")))
        for _ in range(10):
            other.sendall(post(PICTURE))
            assert read_answer(other)[0] == 200
        assert_alive(server)
        wait_until(lambda: num_sockets(server) < 256 + 50)


def test_connections__idle_ones_make_room_when_there_is_none(repository: Path) -> None:
    with ready_server(repository, max_connections=20) as serving, ExitStack() as stack:
        crowd = [
            stack.enter_context(closing(serving.connect(source=f"127.0.0.{2 + number % 7}")))
            for number in range(60)
        ]
        for connection in crowd[-5:]:
            connection.sendall(b"GET /li")
        for _ in range(10):
            assert_alive(serving)
        assert read_all(crowd[0]) == b"", "the oldest goes first"


def test_connections__busy_ones_stay_and_the_excess_is_told(repository: Path) -> None:
    with held_server(repository, max_connections=3) as serving, ExitStack() as stack:
        busy = [stack.enter_context(closing(serving.connect())) for _ in range(3)]
        for number, connection in enumerate(busy):
            connection.sendall(post(PICTURE))
            serving.stdout.wait_for("called", times=number + 1)
        received = exchange(serving, get("/livez"))
        assert statuses(received) == [503]
        assert b"retry-after: 1" in received
        assert "turned away" in serving.log.wait_for("turned away")
        serving.release()
        assert [read_answer(connection)[0] for connection in busy] == [200] * 3


def test_connections__of_one_client(repository: Path) -> None:
    with held_server(repository, max_connections_per_client=2) as serving, ExitStack() as stack:
        busy = [stack.enter_context(closing(serving.connect())) for _ in range(2)]
        for number, connection in enumerate(busy):
            connection.sendall(post(PICTURE))
            serving.stdout.wait_for("called", times=number + 1)
        assert statuses(exchange(serving, get("/livez"))) == [503]
        with closing(serving.connect(source="127.0.0.2")) as other:
            other.sendall(get("/livez"))
            assert read_answer(other)[0] == 200


def test_connection_table__evicts_the_longest_waiting_and_never_a_busy_one() -> None:
    table: ConnectionTable[str] = ConnectionTable(
        max_connections=3, max_per_client=0, is_trusted=lambda _: False
    )
    for now_s, name in enumerate("abc"):
        assert table.add(name, "10.0.0.1", now_s) is None
    table.busy("a")
    assert table.add("d", "10.0.0.2", 4.0) == "b"
    table.busy("c")
    table.wait("a", 5.0)
    assert table.add("e", "10.0.0.2", 6.0) == "d"
    table.busy("a")
    table.busy("e")
    with pytest.raises(NoRoom):
        table.add("f", "10.0.0.3", 7.0)
    table.remove("a")
    table.remove("a")
    assert table.add("f", "10.0.0.3", 8.0) is None
    assert len(table) == 3


def test_connection_table__counts_each_client_alone_and_proxies_not_at_all() -> None:
    table: ConnectionTable[str] = ConnectionTable(
        max_connections=100, max_per_client=2, is_trusted=lambda address: address == "10.0.0.9"
    )
    for number in range(2):
        table.add(f"a{number}", "10.0.0.1", 0.0)
    table.add("b", "10.0.0.2", 0.0)
    assert table.add("a2", "10.0.0.1", 1.0) == "a0"
    assert [table.add(f"proxy{number}", "10.0.0.9", 2.0) for number in range(9)] == [None] * 9


def test_client_of__ipv6_is_a_network() -> None:
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff") == "2001:db8::/64"
    assert client_of("2001:db8:0:1::1") != client_of("2001:db8::1")
    assert client_of("::ffff:10.0.0.1") == client_of("10.0.0.1") == "10.0.0.1"


# -- behind a proxy


@pytest.mark.parametrize(
    ("proxies", "scheme"), [("", "http"), ("10.0.0.0/8", "http"), ("10.0.0.0/8,127.0.0.1", "https")]
)
def test_proxy__is_believed_where_it_is_trusted(
    repository: Path, proxies: str, scheme: str
) -> None:
    settings = {"trusted_proxies": proxies, "max_connections_per_client": 1}
    with ready_server(repository, **settings) as serving, closing(serving.connect()) as first:
        first.sendall(get("/livez/", "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1"))
        status, headers, _ = read_answer(first)
        assert status == 307
        assert headers["location"] == f"{scheme}://localhost/livez"
        with closing(serving.connect()) as second:
            second.sendall(get("/livez"))
            assert read_answer(second)[0] == 200
            first.sendall(get("/livez"))
            # One connection is all that a client has here; a trusted proxy has any number.
            assert statuses(first.recv(1000)) == ([200] if scheme == "https" else [])


# -- what every answer says


def test_headers__of_every_answer(server: ServingProcess) -> None:
    base = f"http://127.0.0.1:{server.port}"
    for path in ("/livez", "/nowhere", "/docs", "/metrics"):
        headers = httpx.get(base + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
        assert "date" in headers
    detected = httpx.post(
        base + "/detect", content=PICTURE, headers={"Content-Type": "image/png"}
    ).headers
    assert detected["cache-control"] == "no-store"


def test_docs__policy_allows_what_is_inside_and_nothing_else(server: ServingProcess) -> None:
    import base64
    import hashlib

    response = httpx.get(f"http://127.0.0.1:{server.port}/docs")
    policy = response.headers["content-security-policy"]
    for tag in ("script", "style"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # Attributes would need a policy of their own.
    assert not re.findall(r"""<[^>]*\s(?:style|on\w+)=["']""", response.text)
