"""`POST /detect:batch`: several pictures in one request, each an item of the queue of its own."""

import base64
from collections.abc import Iterator

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.http_api.app import create_app
from service.http_api.schemas import DetectBatchSchema
from service.settings import Settings
from service.wiring import build_detector
from tests.repositories import write_model
from tests.servers import running_server

MAX_IMAGES = 5


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "boxes", input_size=(64, 96))
    settings = Settings(
        model_repository=repository,
        runtime="fake",
        max_image_bytes=100_000,
        max_images_per_request=MAX_IMAGES,
    )
    with running_server(create_app(build_detector(settings), max_buffered_bytes=10**8)) as client:
        yield client


def png(x: int) -> bytes:
    image: NDArray[np.uint8] = np.full((64, 96, 3), 128, np.uint8)
    image[0, 0] = x, 5, 9
    return cv2.imencode(".png", image)[1].tobytes()


def form(*pictures: bytes, part: str = "images") -> list[tuple[str, tuple[str, bytes]]]:
    return [(part, (f"{number}.png", data)) for number, data in enumerate(pictures)]


def corners(response: httpx.Response) -> list[float]:
    return [result["detections"][0]["box"][0] for result in response.json()["results"]]


def test_detect_batch__every_picture_has_its_result_in_its_place(client: httpx.Client) -> None:
    response = client.post("/detect:batch", files=form(*(png(x) for x in (3, 1, 4, 1, 5))))
    assert response.status_code == 200
    DetectBatchSchema.model_validate(response.json(), strict=True)
    assert corners(response) == [3, 1, 4, 1, 5]
    identity = response.json()["id"]
    assert identity == response.headers["x-request-id"]
    ids = [result["id"] for result in response.json()["results"]]
    assert ids == [f"{identity}:{number}" for number in range(5)]


def test_detect_batch__json_and_form_give_the_same(client: httpx.Client) -> None:
    pictures = [png(2), png(7)]
    document = {
        "images": [{"base64": base64.b64encode(each).decode()} for each in pictures],
        "score_threshold": 0.2,
    }
    as_json = client.post("/detect:batch", json=document)
    as_form = client.post("/detect:batch", files=form(*pictures), data={"score_threshold": "0.2"})
    assert corners(as_json) == corners(as_form) == [2, 7]


def test_detect_batch__one_that_is_damaged_fails_alone(client: httpx.Client) -> None:
    response = client.post("/detect:batch", files=form(png(1), b"no picture", png(2)))
    assert response.status_code == 200
    DetectBatchSchema.model_validate(response.json(), strict=True)
    first, second, third = response.json()["results"]
    assert first["detections"]
    assert third["detections"]
    problem = second["problem"]
    assert (problem["code"], problem["status"]) == ("undecodable-image", 400)
    assert problem["request_id"] == f"{response.json()['id']}:1"


def test_detect_batch__more_than_a_request_may_have(client: httpx.Client) -> None:
    assert client.get("/limits").json()["max_images_per_request"] == MAX_IMAGES
    response = client.post("/detect:batch", files=form(*[png(1)] * (MAX_IMAGES + 1)))
    assert (response.status_code, response.json()["code"]) == (413, "too-many-images")
    assert f"at most {MAX_IMAGES}" in response.json()["detail"]
    assert response.json()["limits"] == {"max_images_per_request": MAX_IMAGES}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"images": []}, "no picture"),
        ({"images": "x"}, "an array"),
        ({"images": [1]}, "no object"),
        ({"images": [{"base64": ""}]}, "is empty"),
        ({"images": [{"base64": "AA=="}], "image": {"base64": "AA=="}}, "one of them"),
    ],
)
def test_detect_batch__bodies_that_cannot_be_read(
    client: httpx.Client, body: object, says: str
) -> None:
    response = client.post("/detect:batch", json=body)
    assert response.status_code == 400
    assert response.json()["code"] == "invalid-request"
    assert says in response.json()["detail"]


def test_detect_batch__a_wrong_option_is_wrong_for_all(client: httpx.Client) -> None:
    for options in ({"score_threshold": "7"}, {"classes": "unicorn"}):
        response = client.post("/detect:batch", files=form(png(1)), data=options)
        assert response.status_code == 422
    assert client.post("/detect:batch?model=none", files=form(png(1))).status_code == 404


def test_detect_batch__gives_no_drawn_pictures(client: httpx.Client) -> None:
    response = client.post("/detect:batch", files=form(png(1)), headers={"Accept": "image/jpeg"})
    assert response.status_code == 406


def test_detect_batch__without_time_for_any_it_is_one_problem(client: httpx.Client) -> None:
    response = client.post("/detect:batch?timeout_ms=1", files=form(*[png(1)] * MAX_IMAGES))
    # Which of them were in time is a matter of luck; if none was, the status says so.
    results = response.json().get("results", [])
    assert response.status_code in (200, 503, 504)
    assert (response.status_code == 200) == any("detections" in each for each in results)


def test_detect__several_pictures_are_sent_elsewhere(client: httpx.Client) -> None:
    response = client.post("/detect", files=form(png(1), png(2), part="image"))
    assert response.status_code == 400
    assert "/detect:batch" in response.json()["detail"]
