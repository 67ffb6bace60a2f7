"""What the endpoints know of a request: its detector, and who asks."""

from fastapi import Request

from service.detector import Detector


def detector_of(request: Request) -> Detector:
    """The detector of the application."""
    return request.app.state.detector


def client_of(request: Request) -> str:
    """Who asks, for a fair share: the address that the connection comes from."""
    return request.client.host if request.client is not None else ""
