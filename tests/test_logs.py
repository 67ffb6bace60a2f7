"""What is logged, in which form, and for which request."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import service.stages
from service.access.clients import Caller
from service.codecs.images import DecodedImage, ImageLimits, decode
from service.detection import DetectionResult, DetectOptions
from service.http_api.access_log import log_answered
from service.http_api.request_record import RequestRecord
from service.logs import JsonFormatter, TextFormatter, chosen_formatter, configure_logs
from service.request_context import SpanIds, request_id, span_ids
from service.runtime.fake import FakeRuntime
from service.stages import Picture
from tests.conftest import PROJECT
from tests.fake_serving import PNG, fake_detector, fake_serving, picture
from tests.log_lines import logged
from tests.repositories import write_model

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def logs_left_alone() -> Iterator[None]:
    """Loggers as they were, whatever a test configures."""
    names = ("", "service", "model", "uvicorn")
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.level, list(each.handlers)) for each in loggers]
    yield
    logging.captureWarnings(False)
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("service.x", logging.WARNING, "", 0, message, arguments, None)
    vars(made).update(extra)
    return made


def failure(text: str) -> logging.LogRecord:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return record("it failed", exc_info=sys.exc_info())


# -- formats


def test_json__has_what_programs_look_for() -> None:
    token = request_id.set("req_1")
    spans = span_ids.set(SpanIds("a" * 32, "b" * 16))
    try:
        line = JsonFormatter().format(record("%d of %d", 1, 2, created=1.0625))
    finally:
        request_id.reset(token)
        span_ids.reset(spans)
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.062Z",
        "level": "warning",
        "logger": "service.x",
        "message": "1 of 2",
        "request_id": "req_1",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
    }


def test_json__outside_of_a_request_has_no_ids() -> None:
    line = json.loads(JsonFormatter().format(record("x")))
    assert set(line) == {"time", "level", "logger", "message"}


def test_json__exception_is_one_field() -> None:
    line = JsonFormatter().format(failure("engine\nsays no"))
    assert "\n" not in line
    text = json.loads(line)["exception"]
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("RuntimeError: engine\nsays no")


def test_json__line_is_ascii_whatever_is_in_it() -> None:
    line = JsonFormatter().format(record("a\n\x1b[2J\u2028\x85\ud800é"))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == "a\n\x1b[2J\u2028\x85\ud800é"


def test_text__is_one_line_whatever_is_in_it() -> None:
    line = TextFormatter().format(record("a\r\n\x1b[2J\u2028\x85\ud800é", created=0.0))
    assert line == (
        "1970-01-01T00:00:00.000Z WARNING service.x a\\r\\n\\x1b[2J\\u2028\\x85\\ud800é"
    )


def test_text__traceback_cannot_be_taken_for_a_line() -> None:
    forged = "2026-01-01T00:00:00.000Z INFO service.access all is well"
    first, *rest = TextFormatter().format(failure(f"bad\n{forged}\x1b[1A")).split("\n")
    assert first.endswith("it failed")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == f"    {forged}\\x1b[1A"


@pytest.mark.parametrize(
    ("log_format", "is_terminal", "kind"),
    [
        ("auto", True, TextFormatter),
        ("auto", False, JsonFormatter),
        ("text", False, TextFormatter),
        ("json", True, JsonFormatter),
    ],
)
def test_chosen_formatter__of_each_setting(log_format, is_terminal: bool, kind: type) -> None:
    assert type(chosen_formatter(log_format, is_terminal=is_terminal)) is kind


@pytest.mark.usefixtures("logs_left_alone")
def test_configure_logs__debug_lets_only_ours_loose() -> None:
    stream = io.StringIO()
    configure_logs("debug", "json", stream)
    logging.getLogger("python_multipart").debug("every few bytes")
    logging.getLogger("service.x").debug("ours")
    logging.getLogger("uvicorn.error").debug("the web server's")
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["ours", "the web server's"]


@pytest.mark.usefixtures("logs_left_alone")
def test_configure_logs__level_is_everyones() -> None:
    stream = io.StringIO()
    configure_logs("error", "json", stream)
    for name in ("service.x", "urllib3", "uvicorn.error"):
        logging.getLogger(name).warning("no")
        logging.getLogger(name).error("yes")
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["yes"] * 3


@pytest.mark.usefixtures("logs_left_alone")
def test_configure_logs__python_warnings_have_the_format() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
        logging.captureWarnings(False)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["logger"] == "py.warnings"


# -- the line of a request


def test_access_log__of_a_request_that_was_answered(tmp_path: Path) -> None:
    with logged() as lines, fake_serving(tmp_path) as client:
        answer = client.post("/detect", content=picture(), headers=PNG)
        (line,) = lines.of("service.access", 1)
    assert RFC_3339.fullmatch(line.pop("time"))
    assert line.pop("duration_ms") > 0
    assert line == {
        "level": "info",
        "logger": "service.access",
        "message": "POST /detect 200",
        "request_id": answer.headers["X-Request-ID"],
        "method": "POST",
        "route": "/detect",
        "status": 200,
        "bytes_in": len(picture()),
        "bytes_out": len(answer.content),
        "client": "127.0.0.1",
        "model": "boxes",
    }


def test_access_log__refusal_has_the_code_of_its_problem(tmp_path: Path) -> None:
    with logged() as lines, fake_serving(tmp_path) as client:
        codes = [
            client.post("/detect", content=b"junk", headers=PNG).json()["code"],
            client.get("/detect").json()["code"],
            client.get("/nowhere").json()["code"],
        ]
        found = lines.of("service.access", 3)
    assert [line["problem"] for line in found] == codes
    assert [line["status"] for line in found] == [400, 405, 404]


def test_access_log__path_of_a_client_cannot_forge_a_line(tmp_path: Path) -> None:
    with logged() as lines, fake_serving(tmp_path) as client:
        client.get("/a%0A%7B%22level%22%3A%22info%22%7D" + "b" * 1000)
        (line,) = lines.of("service.access", 1)
    assert line["route"] == "other"
    assert line["path"].startswith('/a\n{"level":"info"}bbb')
    assert len(line["path"]) == 256


def test_access_log__probes_are_for_debugging(tmp_path: Path) -> None:
    with fake_serving(tmp_path) as client:
        for level, routes in ((logging.INFO, ["/limits"]), (logging.DEBUG, ["/livez", "/limits"])):
            with logged(level) as lines:
                client.get("/livez")
                client.get("/limits")
                found = lines.of("service.access", len(routes))
            assert [line["route"] for line in found] == routes


def test_access_log__may_be_off(tmp_path: Path) -> None:
    with logged() as lines, fake_serving(tmp_path, access_log=False) as client:
        client.post("/detect", content=picture(), headers=PNG)
    assert [line for line in lines.all() if line["logger"] == "service.access"] == []


def test_access_log__names_whose_key_was_sent() -> None:
    record = RequestRecord("GET", "/models", "", "mine", caller=Caller("shop", ""))
    with logged() as lines:
        log_answered(record)
    (line,) = lines.all()
    assert line["key"] == "shop"
    assert "client" not in line


# -- which request a line belongs to


def test_log__of_a_failed_inference_has_the_requests_id(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("engine says no")

    with logged() as lines, fake_serving(tmp_path, FakeRuntime(fault=fail)) as client:
        client.post("/detect", content=picture(), headers=PNG | {"X-Request-ID": "mine"})
        (access,) = lines.of("service.access", 1)
    (error,) = [line for line in lines.all() if line["level"] == "error"]
    assert error["request_id"] == access["request_id"] == "mine"
    assert "engine says no" in error["exception"]
    assert access["problem"] == "inference-failed"


def test_log__of_worker_threads_has_the_requests_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("service.worker")

    def decode_telling(data: bytes, limits: ImageLimits) -> DecodedImage:
        logger.info("decode")
        return decode(data, limits)

    def present(result: DetectionResult, again: Picture) -> int:
        logger.info("present")
        return len(result.detections)

    monkeypatch.setattr(service.stages, "decode", decode_telling)
    detector = fake_detector(tmp_path)

    async def ask(identity: str) -> None:
        request_id.set(identity)
        await detector.detect(picture(), DetectOptions(), present)

    async def ask_for_three() -> None:
        detector.start()
        await asyncio.gather(*(asyncio.create_task(ask(f"req_{n}")) for n in range(3)))
        await detector.stop()

    with logged() as lines:
        asyncio.run(ask_for_three())
    told = [(line["message"], line["request_id"]) for line in lines.of("service.worker", 6)]
    assert sorted(told) == [(what, f"req_{n}") for what in ("decode", "present") for n in range(3)]


# -- the command


def lines_of_serve(repository: Path, **environment: str) -> list[str]:
    """What `rtmdet serve` logs until it ends; it is told to as soon as it serves."""
    settings = {"RTMDET_MODEL_REPOSITORY": str(repository), "RTMDET_RUNTIME": "fake"}
    settings["RTMDET_DRAIN_DELAY_MS"] = "0"
    command = [sys.executable, "-m", "rtmdet", "serve", "--port", "0"]
    variables = os.environ | settings | environment
    with subprocess.Popen(
        command, cwd=PROJECT, env=variables, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if "startup complete" in line:
                process.terminate()
    return lines


def test_serve__every_line_has_the_format_also_the_web_servers(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    lines = [json.loads(line) for line in lines_of_serve(tmp_path)]
    assert {"service.served_model", "uvicorn.error"} <= {line["logger"] for line in lines}
    assert all(RFC_3339.fullmatch(line["time"]) for line in lines)


def test_serve__text_when_asked_for(tmp_path: Path) -> None:
    write_model(tmp_path, "boxes")
    lines = lines_of_serve(tmp_path, RTMDET_LOG_FORMAT="text")
    assert len(lines) > 3
    assert all(RFC_3339.match(line) for line in lines)
