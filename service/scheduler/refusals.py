"""What a caller is told whose request is not run: why, and what to do. Pure."""

from service.errors import DeadlineExceeded, Overloaded, ServiceError, ShuttingDown


def shutting_down() -> ShuttingDown:
    """The server, or this version of the model, takes nothing new."""
    return ShuttingDown(
        "the server is shutting down or replacing this model; send the request again",
        retry_after_s=1.0,
    )


def too_late() -> DeadlineExceeded:
    """The answer to a request whose time is over."""
    return DeadlineExceeded(
        "the request's time was over before its turn came; allow more with timeout_ms, "
        "or send fewer requests at once"
    )


def queue_full(num_waiting: int, *, next_free_s: float) -> Overloaded:
    """As many wait as may; the next place is free in about so long."""
    return Overloaded(
        f"{num_waiting} requests are waiting for this model; try again later",
        retry_after_s=max(next_free_s, 1.0),
    )


def in_vain(num_waiting: int, *, left_s: float, late_by_s: float, alone_s: float) -> ServiceError:
    """The answer would come too late; inference alone takes `alone_s`."""
    left_ms = round(left_s * 1000)
    if alone_s > left_s:
        return DeadlineExceeded(
            f"inference alone takes {round(alone_s * 1000)} ms, and {left_ms} ms were left; "
            "allow more with timeout_ms"
        )
    return Overloaded(
        f"{num_waiting} requests are waiting for this model: inference would be done "
        f"after {left_ms + round(late_by_s * 1000)} ms, and {left_ms} ms were left; try again "
        "later, or allow more with timeout_ms",
        retry_after_s=late_by_s,
    )
