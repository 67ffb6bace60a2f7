"""What the client makes of refusals, of answers that are none, and of answers of newer servers."""

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from service.client import (
    NO_RETRY,
    BadAnswer,
    Client,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    Forbidden,
    Problem,
    ProblemError,
    RequestRefused,
    RotatedBox,
    Unauthenticated,
    Unavailable,
)
from tests.client_kinds import KINDS, Kind
from tests.scripted_servers import (
    DETECTED,
    Script,
    Scripted,
    as_json,
    page,
    problem,
    scripted_server,
)


@pytest.fixture(params=KINDS, ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with scripted_server() as script:
        yield script


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestRefused),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, RequestRefused),
        (413, RequestRefused),
        (429, Unavailable),
        (500, ProblemError),
        (502, ProblemError),
        (503, Unavailable),
        (504, DeadlineExceeded),
    ],
)
def test_errors__are_of_the_class_of_their_status(
    kind: Kind, status: int, expected: type[ProblemError], script: Script
) -> None:
    refusal = problem(status, "some-code", "do that", retry_after_ms=1500, unknown_member=[])
    url, _ = script(refusal)
    with (
        kind(url, retry=NO_RETRY) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.detect(b"picture")
    assert type(raised.value) is expected
    assert isinstance(raised.value, ProblemError)
    assert raised.value.problem.as_error().args == raised.value.args
    assert (raised.value.detail, raised.value.retry_after_s) == ("do that", 1.5)
    assert raised.value.request_id == "req_server"


@pytest.mark.parametrize("status", [401, 403, 413, 429, 500, 502, 503, 504, 599])
def test_errors__of_a_proxy_go_by_the_status_alone(kind: Kind, status: int, script: Script) -> None:
    url, _ = script(page(status))
    with (
        kind(url, retry=NO_RETRY) as client,
        pytest.raises(ProblemError) as raised,
    ):
        client.detect(b"picture", request_id="mine-8")
    assert type(raised.value) is type(Problem(status, "", "").as_error())
    assert (raised.value.status, raised.value.request_id) == (status, "mine-8")
    assert str(status) in raised.value.detail


@pytest.mark.parametrize("error", [
    Problem(504, "deadline-exceeded", "ask for more", request_id="r").as_error(),
    ConnectionFailed("no answer", "r", may_pass=False),
    BadAnswer("no answer of ours", "r"),
])  # fmt: skip
def test_errors__travel_between_processes(error: ClientError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def without(name: str) -> dict[str, Any]:
    return {member: value for member, value in DETECTED.items() if member != name}


def detection_with(**members: object) -> dict[str, Any]:
    return DETECTED | {"detections": [DETECTED["detections"][0] | members]}


BROKEN = {
    "a page": page(200),
    "no content": Scripted(204, b""),
    "a list": as_json([]),
    "half a document": Scripted(200, json.dumps(DETECTED).encode()[:-5]),
    "no detections": as_json(without("detections")),
    "no timings": as_json(without("timings_ms")),
    "box of three": as_json(detection_with(box=[1.0, 2.0, 3.0])),
    "box of text": as_json(detection_with(box=["1", "2", "3", "4"])),
    "score above 1": as_json(detection_with(score=90.0)),
    "score not a number": as_json(detection_with(score=float("nan"))),
    "unknown mask": as_json(detection_with(mask={"format": "dense", "size": [4, 6]})),
    "mask of another size": as_json(
        detection_with(mask={"format": "rle", "size": [6, 4], "counts": "h0"})
    ),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_bad_answer__is_told_from_a_result(answer: Scripted, script: Script) -> None:
    url, _ = script(answer)
    with (
        Client(url) as client,
        pytest.raises(BadAnswer, match="does not answer as RTMDet Serving does") as raised,
    ):
        client.detect(b"picture", request_id="mine-9")
    assert raised.value.request_id == "mine-9"
    assert url in str(raised.value)


def test_bad_answer__redirect_is_told_and_not_followed(kind: Kind, script: Script) -> None:
    elsewhere = page(307, location="https://elsewhere.invalid/detect")
    url, seen = script(elsewhere)
    with (
        kind(url, api_key="secret") as client,
        pytest.raises(BadAnswer, match=r"redirects to https://elsewhere\.invalid/detect"),
    ):
        client.detect(b"picture")
    assert len(seen) == 1


def test_bad_answer__drawn_picture_of_another_type(script: Script) -> None:
    url, _ = script(as_json(DETECTED))
    with (
        Client(url) as client,
        pytest.raises(BadAnswer),
    ):
        client.draw(b"picture")


def test_result__members_of_a_newer_server_are_passed_over(script: Script) -> None:
    newer = detection_with(track_id=7, rotated_box={"cx": 1, "cy": 2, "w": 3, "h": 1, "angle": 0.5})
    newer |= {"truncated": False, "batch": {"size": 2, "reason": "idle"}}
    url, _ = script(as_json(newer))
    with Client(url) as client:
        result = client.detect(b"picture")
    assert result.detections[0].rotated_box == RotatedBox(1, 2, 3, 1, 0.5)
    assert result.batch.size == 2


def test_result__writes_the_json_that_it_was_read_from(script: Script) -> None:
    url, _ = script(as_json(DETECTED))
    with Client(url) as client:
        assert json.loads(client.detect(b"picture").to_json()) == DETECTED
