"""Every route of an application, hidden ones included."""

from collections.abc import Iterator, Sequence

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route


def all_routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path template) of each, in the order in which they are tried."""
    return [
        (method, prefix + route.path)
        for prefix, route in _routes(app.routes, "")
        for method in sorted(route.methods or ())
    ]


def _routes(routes: Sequence[BaseRoute], prefix: str) -> Iterator[tuple[str, Route]]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _routes(included.routes, prefix + route.include_context.prefix)
        else:
            # Another kind, a mount or a web socket, needs an idea of what its paths are.
            assert isinstance(route, Route), f"{route} is a kind of route that is not known here"
            yield prefix, route
