"""A typed client of the HTTP interface.

    from rtmdet import Client

    with Client("http://localhost:8000") as client:
        for found in client.detect("street.jpg", classes=["person"]).detections:
            print(found.label, found.score, found.box)

It needs nothing of the server: `pip install '.[client]'`.
"""

try:
    import httpx as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the client needs httpx; pip install '.[client]'", name="httpx"
    ) from error

from service.client.async_client import AsyncClient
from service.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    FieldError,
    Forbidden,
    Problem,
    ProblemError,
    RequestRefused,
    TimedOut,
    Unauthenticated,
    Unavailable,
)
from service.client.masks import Mask, PngMask, Polygon, PolygonMask, RleMask
from service.client.options import DetectOptions, MaskFormat, Priority
from service.client.pictures import Picture
from service.client.results import Detection, DetectionResult, Limits, Model, RotatedBox
from service.client.retries import NO_RETRY, Retry
from service.client.sync_client import Client

__all__ = [
    "NO_RETRY",
    "AsyncClient",
    "BadAnswer",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "DetectOptions",
    "Detection",
    "DetectionResult",
    "FieldError",
    "Forbidden",
    "Limits",
    "Mask",
    "MaskFormat",
    "Model",
    "Picture",
    "PngMask",
    "Polygon",
    "PolygonMask",
    "Priority",
    "Problem",
    "ProblemError",
    "RequestRefused",
    "Retry",
    "RleMask",
    "RotatedBox",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
]
