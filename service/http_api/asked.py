"""What the endpoints know of a request: its detector, and who asks."""

from fastapi import Request

from service.detector import Detector
from service.http_api.access import caller_of
from service.http_api.upload_budget import UploadBudget


def detector_of(request: Request) -> Detector:
    """The detector of the application."""
    return request.app.state.detector


def max_batch_bytes(request: Request) -> int:
    """Bytes of pictures that a request to `/detect:batch` may have."""
    limits = detector_of(request).limits
    uploads: UploadBudget = request.app.state.uploads
    return min(limits.image.max_bytes * limits.max_images_per_request, uploads.max_bytes_per_client)


def client_of(request: Request) -> str:
    """Who asks, for a fair share: the name of the key, else where the connection comes from."""
    return caller_of(request).identity
