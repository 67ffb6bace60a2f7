"""What the soak sends: requests of every kind that people and programs send, drawn at random."""

import base64
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.raw_client import RawRequest, with_options
from tests.pictures import one_of_each_format

#: Statuses of requests that are in order; a server that is busy may say so.
SOUND = (200, 503, 504)

_BOUNDARY = "soak-boundary"


@dataclass(frozen=True)
class SoakRequest:
    """A request, and the statuses that it may get."""

    request: RawRequest
    expected: Sequence[int]
    media_type: str = "application/json"


class SoakRequests:
    """Draws requests for models of these names."""

    def __init__(self, models: Sequence[str], chance: random.Random) -> None:
        self._models = models
        self._chance = chance
        self._small = list(one_of_each_format().values())
        sizes = [(320, 240), (320, 240), (640, 480), (1280, 720)]
        self._photographs = [_photograph(*size, seed) for seed, size in enumerate(sizes)]

    def draw(self) -> SoakRequest:
        """The next one."""
        kinds: list[tuple[int, Callable[[], SoakRequest]]] = [
            (40, self._raw),
            (12, self._form),
            (12, self._json),
            (8, self._batch),
            (6, self._drawn),
            (12, self._refused),
            (10, self._reading),
        ]
        weights, makers = zip(*kinds, strict=True)
        return self._chance.choices(makers, weights)[0]()

    def _picture(self) -> bytes:
        is_small = self._chance.random() < 0.6
        return self._chance.choice(self._small if is_small else self._photographs)

    def _options(self) -> dict[str, str]:
        chance = self._chance
        drawn = {
            "model": chance.choice(self._models),
            "score_threshold": f"{chance.random():.2f}",
            "mask_format": chance.choice(("none", "rle", "polygon", "png")),
            "max_detections": str(chance.randint(1, 50)),
            "priority": chance.choice(("high", "normal", "low")),
            "timeout_ms": str(chance.choice((1, 5, 50, 5000))),
        }
        return {name: value for name, value in drawn.items() if chance.random() < 0.3}

    def _raw(self) -> SoakRequest:
        target = with_options("/detect", self._options())
        headers = {"Content-Type": "application/octet-stream"}
        return SoakRequest(RawRequest("POST", target, self._picture(), headers), SOUND)

    def _form(self) -> SoakRequest:
        body = _form([("image", self._picture())], self._options())
        return SoakRequest(_posted("/detect", body, _form_type()), SOUND)

    def _json(self) -> SoakRequest:
        image = {"base64": base64.b64encode(self._picture()).decode()}
        body = json.dumps({"image": image, "options": self._options()}).encode()
        return SoakRequest(_posted("/detect", body, "application/json"), SOUND)

    def _batch(self) -> SoakRequest:
        pictures = [self._picture() for _ in range(self._chance.randint(1, 6))]
        if self._chance.random() < 0.3:
            pictures.append(b"no picture")
        body = _form([("images", picture) for picture in pictures], self._options())
        return SoakRequest(_posted("/detect:batch", body, _form_type()), SOUND)

    def _drawn(self) -> SoakRequest:
        media_type = self._chance.choice(("image/jpeg", "image/png"))
        options = self._options() | {"timeout_ms": "20000"}
        headers = {"Content-Type": "image/jpeg", "Accept": media_type}
        request = RawRequest(
            "POST",
            with_options("/detect", options),
            self._chance.choice(self._photographs),
            headers,
        )
        return SoakRequest(request, SOUND, media_type)

    def _refused(self) -> SoakRequest:
        picture = self._picture()
        request, status = self._chance.choice(
            (
                (_posted("/detect", b"no picture at all", "image/jpeg"), 400),
                (_posted("/detect", picture[: len(picture) // 3], "image/jpeg"), 400),
                (_posted("/detect", b"", "image/jpeg"), 400),
                (_posted("/detect", b'{"image": [', "application/json"), 400),
                (_posted("/detect", b"--x\r\n", "multipart/form-data; boundary=x"), 400),
                (_posted("/detect?model=nobody", picture, "image/jpeg"), 404),
                (_posted("/nowhere", picture, "image/jpeg"), 404),
                (_posted("/detect", picture, "text/plain"), 415),
                (_posted("/detect?iou_threshold=2", picture, "image/jpeg"), 422),
                (_posted("/detect?colour=red", picture, "image/jpeg"), 422),
            )
        )
        return SoakRequest(request, (status, 503), "application/problem+json")

    def _reading(self) -> SoakRequest:
        path = self._chance.choice(("/models", "/limits", "/livez", "/readyz", "/openapi.json"))
        return SoakRequest(RawRequest("GET", path), (200, 503))


def _posted(target: str, body: bytes, content_type: str) -> RawRequest:
    return RawRequest("POST", target, body, {"Content-Type": content_type})


def _form_type() -> str:
    return f"multipart/form-data; boundary={_BOUNDARY}"


def _form(pictures: Sequence[tuple[str, bytes]], options: dict[str, str]) -> bytes:
    parts = [(f'name="{name}"; filename="a"', content) for name, content in pictures]
    parts += [(f'name="{name}"', value.encode()) for name, value in options.items()]
    body = b"".join(
        f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for disposition, content in parts
    )
    return body + f"--{_BOUNDARY}--\r\n".encode()


def _photograph(width: int, height: int, seed: int) -> bytes:
    """A JPEG with shapes and some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(0, 12, picture.shape, np.uint8)
    return cv2.imencode(".jpg", cv2.add(picture, grain))[1].tobytes()
