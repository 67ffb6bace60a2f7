"""Each method of the clients as a value: what is sent, and how the answer is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar
from urllib.parse import quote

from service.client import answers
from service.client.answers import Read
from service.client.errors import Problem
from service.client.options import Fields
from service.client.pictures import (
    ArrayFormat,
    Body,
    Picture,
    Piece,
    form_body,
    picture_piece,
    raw_body,
)
from service.client.results import DetectionResult, Limits, Model
from service.timeouts import MAX_TIMEOUT_MS

T = TypeVar("T")

PictureFormat = Literal["jpeg", "png"]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One method, called. `explained` are further statuses that `read` makes a value of.

    Options stand in the query, or in the form where `as_form`. `is_timed` calls tell the server
    how long their answer is waited for.
    """

    method: Literal["GET", "POST"]
    path: str
    read: Read[T]
    accept: str = "application/json"
    options: Fields = ()
    pieces: tuple[Piece, ...] = ()
    as_form: bool = False
    is_timed: bool = False
    is_retried: bool = True
    explained: frozenset[int] = frozenset()

    def encode(self, remaining_ms: float) -> tuple[Fields, Body | None]:
        """The query and the body of an attempt that is waited for so long."""
        options = self.options
        if self.is_timed and remaining_ms <= MAX_TIMEOUT_MS:
            options = (*options, ("timeout_ms", str(max(1, int(remaining_ms)))))
        if self.as_form:
            return (), form_body(self.pieces, options)
        return options, raw_body(self.pieces[0]) if self.pieces else None


def detect(picture: Picture, options: Fields, array_format: ArrayFormat) -> Call[DetectionResult]:
    """What is in a picture."""
    return Call(
        "POST",
        "/detect",
        answers.read_detection,
        options=options,
        pieces=(picture_piece(picture, array_format),),
        is_timed=True,
    )


def detect_batch(
    pictures: Sequence[Picture], options: Fields, array_format: ArrayFormat
) -> Call[list[DetectionResult | Problem]]:
    """What is in each of several pictures. Raises ValueError for none, TypeError for one alone."""
    # A picture is a sequence too: of rows, which would pass for narrow grey pictures.
    if isinstance(pictures, str | bytes) or getattr(pictures, "ndim", 4) != 4:
        raise TypeError("detect_batch takes several pictures; give them in a list")
    if not len(pictures):
        raise ValueError("detect_batch needs at least one picture")
    return Call(
        "POST",
        "/detect:batch",
        answers.read_batch(len(pictures)),
        options=options,
        pieces=tuple(picture_piece(picture, array_format) for picture in pictures),
        as_form=True,
        is_timed=True,
    )


def draw(
    picture: Picture, picture_format: PictureFormat, options: Fields, array_format: ArrayFormat
) -> Call[bytes]:
    """A picture with what is in it drawn."""
    media_type = f"image/{picture_format}"
    return Call(
        "POST",
        "/detect",
        answers.read_picture(media_type),
        # Problems come as JSON whatever is accepted.
        accept=media_type,
        options=options,
        pieces=(picture_piece(picture, array_format),),
        is_timed=True,
    )


MODELS: Call[tuple[Model, ...]] = Call("GET", "/models", answers.read_models)
LIMITS: Call[Limits] = Call("GET", "/limits", answers.read_limits)

#: Asked again by whoever waits, so never retried.
READINESS: Call[bool] = Call(
    "GET", "/readyz", answers.read_readiness, is_retried=False, explained=frozenset({503})
)


def load_model(name: str, version: int | None) -> Call[Model]:
    """Load a model, or replace the version that is served."""
    options = () if version is None else (("version", str(version)),)
    return Call("POST", f"{_path(name)}/load", answers.read_model, options=options)


def unload_model(name: str) -> Call[Model]:
    """Take a model out of service."""
    return Call("POST", f"{_path(name)}/unload", answers.read_model)


def _path(name: str) -> str:
    if not name:
        raise ValueError("name a model")
    return f"/models/{quote(name, safe='')}"
