"""Both clients under one face, for tests of what holds for both."""

import asyncio
from collections.abc import Callable
from typing import Any

from service.client import AsyncClient, Client


class Awaited:
    """An asynchronous client whose methods wait: a new one for each call."""

    def __init__(self, url: str, **given: Any) -> None:
        self._url, self._given = url, given

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: object, **options: object) -> object:
            async with AsyncClient(self._url, **self._given) as client:
                return await getattr(client, name)(*args, **options)

        return lambda *args, **options: asyncio.run(call(*args, **options))

    def __enter__(self) -> "Awaited":
        return self

    def __exit__(self, *_: object) -> None:
        pass


#: What makes a client of either kind: parameters of a fixture.
KINDS = [Client, Awaited]

#: Makes a client.
Kind = Callable[..., Any]
