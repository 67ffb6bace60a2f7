"""Everything that the service refuses or fails at, as one tree.

    ServiceError
    ├── RequestRefused               the caller can mend it
    │   ├── Unauthenticated          no API key, or one that is not valid
    │   ├── Forbidden                a key without the scope, or a web page of another site
    │   ├── RateLimited              more than the client may ask for now: try again later
    │   ├── TooManyImages            more pictures in one request than the rate limit ever allows
    │   ├── InvalidRequest           the message cannot be read: no image, two images, broken JSON
    │   ├── UndecodableImage         the bytes are no image, or a damaged one
    │   ├── ImageTooLarge            too many bytes or too many pixels
    │   ├── RequestTimeout           the body did not arrive in time
    │   ├── UnsupportedMediaType     a content type or an image format that is not served
    │   ├── NotAcceptable            an answer format that is not served
    │   ├── InvalidOption            an option with a wrong name or value
    │   ├── AnswerTooLarge           masks that would take more memory than there is for them
    │   ├── UnknownModel             no model of that name
    │   └── ModelNotLoadable         a model of the repository that cannot be loaded
    └── ServiceUnavailable           the caller did nothing wrong
        ├── Overloaded               the queue is full: try again later
        ├── DeadlineExceeded         no answer in the time that the request allowed
        ├── ModelNotReady            loading, or failed to load
        ├── ShuttingDown             the server is draining
        └── InferenceFailed          the runtime raised

Foreign exceptions are mapped to these where they arise; `service.http_api.problems` and the gRPC
interface each turn them into a status by one table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field: a JSON pointer (RFC 6901) into the request, and a sentence."""

    pointer: str
    detail: str


@dataclass(eq=False)
class ServiceError(Exception):
    """Base of the tree. `detail` is one sentence for the caller that says what to do."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    detail: str
    errors: Sequence[FieldError] = ()
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return self.detail


class RequestRefused(ServiceError):
    """The caller can mend it."""

    code = "request-refused"
    title = "Request refused"


class Unauthenticated(RequestRefused):
    """No API key came with the request, or one that is unknown or has expired."""

    code = "unauthenticated"
    title = "Unauthenticated"


class Forbidden(RequestRefused):
    """The API key lacks the scope, or a web page of another site has sent the request."""

    code = "forbidden"
    title = "Forbidden"


class RateLimited(RequestRefused):
    """More than this client may ask for in the time; the answer says when it may again."""

    code = "rate-limited"
    title = "Rate limited"


class TooManyImages(RequestRefused):
    """More pictures in one request than there may be; `limits` says how many."""

    code = "too-many-images"
    title = "Too many images"


class InvalidRequest(RequestRefused):
    """The message cannot be read: no picture, too many, a broken form or broken JSON."""

    code = "invalid-request"
    title = "Invalid request"


class UndecodableImage(RequestRefused):
    """The bytes are no image, or a damaged one."""

    code = "undecodable-image"
    title = "Image cannot be decoded"


class ImageTooLarge(RequestRefused):
    """Too many bytes or too many pixels; `limits` says how many are allowed."""

    code = "image-too-large"
    title = "Image too large"


class RequestTimeout(RequestRefused):
    """The body did not arrive in time; the time grows with what has come."""

    code = "request-timeout"
    title = "Request timeout"


class UnsupportedMediaType(RequestRefused):
    """A content type or an image format that is not served."""

    code = "unsupported-media-type"
    title = "Unsupported media type"


class NotAcceptable(RequestRefused):
    """An answer format that is not served."""

    code = "not-acceptable"
    title = "Not acceptable"


class InvalidOption(RequestRefused):
    """An option with a wrong name or value; `errors` names each."""

    code = "invalid-option"
    title = "Invalid option"


class UnknownModel(RequestRefused):
    """No model of that name; `detail` lists those there are."""

    code = "unknown-model"
    title = "Unknown model"


class AnswerTooLarge(RequestRefused):
    """The masks that were found would take more memory than there is for them."""

    code = "answer-too-large"
    title = "Answer too large"


class ModelNotLoadable(RequestRefused):
    """A model of the repository that cannot be loaded; what was served before still is."""

    code = "model-not-loadable"
    title = "Model cannot be loaded"


class ServiceUnavailable(ServiceError):
    """The caller did nothing wrong."""

    code = "unavailable"
    title = "Service unavailable"


class Overloaded(ServiceUnavailable):
    """More waits or is under way than may; the answer says when to try again."""

    code = "overloaded"
    title = "Overloaded"


class DeadlineExceeded(ServiceUnavailable):
    """No answer in the time that the request allowed itself by `timeout_ms`, or may take."""

    code = "deadline-exceeded"
    title = "Deadline exceeded"


class ModelNotReady(ServiceUnavailable):
    """The model is loading, is not loaded or could not be, or its runtime is being replaced."""

    code = "model-not-ready"
    title = "Model not ready"


class ShuttingDown(ServiceUnavailable):
    """The server, or this version of the model, finishes what it has and takes nothing new."""

    code = "shutting-down"
    title = "Shutting down"


class InferenceFailed(ServiceUnavailable):
    """The runtime failed on the picture, or gave no answer; the log has the cause."""

    code = "inference-failed"
    title = "Inference failed"
