"""What the endpoints know of a request: its detector, and who asks."""

from fastapi import Request

from service.detector import Detector
from service.http_api.access import caller_of


def detector_of(request: Request) -> Detector:
    """The detector of the application."""
    return request.app.state.detector


def client_of(request: Request) -> str:
    """Who asks, for a fair share: the name of the key, else where the connection comes from."""
    return caller_of(request).identity
