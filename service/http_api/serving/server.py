"""uvicorn's server with connections within limits, and an end that loses no request.

The end: `/readyz` says so while requests are still taken, until whoever sends them has noticed;
answers close their connections meanwhile. Then nobody listens any more, what is in flight is
finished, and what does not finish in time is cut.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass

import uvicorn

from service.http_api.draining import Draining
from service.http_api.serving.accepting import Acceptor
from service.http_api.serving.connection import HttpConnection, Surroundings
from service.http_api.serving.connections import ConnectionTable
from service.http_api.serving.limits import ConnectionLimits
from service.http_api.serving.stopping import StopSignals
from service.http_api.serving.tls import ServerTls

logger = logging.getLogger(__name__)

#: How often it is looked whether a signal came, or everything has ended.
_TICK_S = 0.1

_LOOK_AT_CERTIFICATES_S = 1.0

#: How long a client that has connected has to send its first request once nobody listens.
_FIRST_REQUEST_S = 1.0

#: How long requests have to end by themselves when their connections are cut.
_CUT_S = 0.5

#: Time of each further step of the end: what a request may take beyond its own timeout, and what
#: the application may take to release its models.
GRACE_S = 5.0

#: Files, sockets and pipes of the process beside clients' connections.
_OTHER_DESCRIPTORS = 256


@dataclass(frozen=True)
class Ending:
    """How long the server takes its leave, in seconds."""

    drain_delay_s: float
    request_timeout_s: float


class GracefulServer(uvicorn.Server):
    """Serves on a bound socket until a signal comes, then ends in order."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        limits: ConnectionLimits,
        ending: Ending,
        is_trusted: Callable[[str], bool],
        tls: ServerTls | None,
        draining: Draining,
        stopping: StopSignals,
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._ending = ending
        self._tls = tls
        self._draining = draining
        self._stopping = stopping
        self._table: ConnectionTable[HttpConnection] = ConnectionTable(
            max_connections=limits.max_connections,
            max_per_client=limits.max_per_client,
            is_trusted=is_trusted,
        )
        #: Requests that were not answered because the server ended.
        self.num_cut = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Nothing: signals are handled since before there was a server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        assert sockets is not None
        (listener,) = sockets
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(1)
        _allow_descriptors(self._limits.max_connections + _OTHER_DESCRIPTORS)
        around = Surroundings(
            config=self.config,
            state=self.server_state,
            app_state=self.lifespan.state,
            limits=self._limits,
            table=self._table,
            draining=self._draining,
            loop=asyncio.get_running_loop(),
        )
        self._acceptor = Acceptor(listener, around, self._tls)
        # Date and other headers of every answer.
        await self.on_tick(0)
        self._acceptor.open()
        self._keepers = [asyncio.create_task(self._look_after_connections())]
        if self._tls is not None:
            self._keepers.append(asyncio.create_task(self._look_after_certificates(self._tls)))
        self.started = True
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "http" if self._tls is None else "https"
        logger.info("ready: %s://%s:%d/detect, /docs", scheme, shown, port)

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn does ten times a second; whether to end."""
        return await super().on_tick(counter) or self._stopping.requested is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order."""
        delay_s = self._begin_draining()
        await asyncio.sleep(delay_s)
        await self._acceptor.close()
        # What lies in the sockets is read once more before idle connections are closed.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._take_leave(even_new=False)
        if not await self._ends_within(_FIRST_REQUEST_S):
            self._take_leave(even_new=True)
            limit_s = self._ending.request_timeout_s + GRACE_S - _FIRST_REQUEST_S
            if not await self._ends_within(limit_s):
                await self._cut()
        for keeper in self._keepers:
            keeper.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.lifespan.shutdown(), GRACE_S)
        if self.num_cut:
            logger.error("stopped: requests cut off: %d", self.num_cut)
        else:
            logger.info("stopped: every request was answered")

    def _begin_draining(self) -> float:
        """Gives for how long, in seconds, requests are still taken."""
        self._draining.begun = True
        for connection in self._table:
            connection.announce_end()
        signal_name = self._stopping.name
        delay_s = 0.0 if self._stopping.is_interrupt else self._ending.drain_delay_s
        self._stopping.end_within(
            delay_s + self._ending.request_timeout_s + 3 * GRACE_S + _FIRST_REQUEST_S
        )
        new_ones = f"new ones are taken for another {delay_s:g} s" if delay_s else "no new ones"
        logger.info(
            "%s: draining, requests in flight: %d; %s. A second signal ends at once.",
            signal_name,
            self._num_in_flight(),
            new_ones,
        )
        return delay_s

    def _take_leave(self, *, even_new: bool) -> None:
        for connection in self._table:
            connection.leave(even_new=even_new)

    def _num_in_flight(self) -> int:
        return sum(connection.is_answering for connection in self._table)

    async def _ends_within(self, seconds: float) -> bool:
        """Whether nothing is left before the time is up."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + seconds
        while len(self._table) or self.server_state.tasks:
            if loop.time() >= end_s:
                return False
            await asyncio.sleep(_TICK_S / 2)
        return True

    async def _cut(self) -> None:
        self.num_cut = self._num_in_flight()
        for connection in self._table:
            connection.cut()
        # The application sees that its clients have gone.
        if not await self._ends_within(_CUT_S):
            for task in self.server_state.tasks:
                task.cancel()

    async def _look_after_connections(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            try:
                now_s = loop.time()
                for connection in self._table:
                    connection.look_after(now_s)
                self._acceptor.look_after(now_s)
            except Exception:
                # Without this task nothing would ever time out.
                logger.exception("looking after connections failed; it goes on")

    async def _look_after_certificates(self, tls: ServerTls) -> None:
        while True:
            await asyncio.sleep(_LOOK_AT_CERTIFICATES_S)
            try:
                tls.reload_if_changed()
            except Exception:
                logger.exception("looking at certificates failed; it goes on")


def _allow_descriptors(wanted: int) -> None:
    """Raise the limit of open files as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logger.warning(
            "only %d files may be open; RTMDET_MAX_CONNECTIONS needs %d: raise `ulimit -n`",
            allowed,
            wanted,
        )
