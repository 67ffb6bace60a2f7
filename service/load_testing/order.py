"""A whole bench: what is wanted, and how it is carried out."""

import asyncio
import resource
import ssl
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from service.load_testing.campaign import Campaign, RunPlan
from service.load_testing.connections import ConnectionPool
from service.load_testing.objectives import Objective
from service.load_testing.progress import Progress
from service.load_testing.report import Bench
from service.load_testing.request_bytes import Picture, RequestShape, Target, build_request
from service.version import VERSION

#: Files that the process has open beside its connections, generously.
_OTHER_FILES = 64

Result = TypeVar("Result")


@dataclass(frozen=True)
class BenchOrder:
    """What is sent where, how often, and what is looked for.

    With `objectives` the first of `rates_per_s` is where the search begins. `command` stands in
    the report as it is given.
    """

    target: Target
    shape: RequestShape
    pictures: Sequence[Picture]
    plan: RunPlan
    rates_per_s: Sequence[float]
    objectives: Sequence[Objective] = ()
    timeout_s: float = 30.0
    max_connections: int = 1000
    takes_any_certificate: bool = False
    command: str = ""


def carry_out(order: BenchOrder, progress: Progress) -> Bench:
    """Make all runs. Raises CannotConnect, RefusedTrial, and ValueError for an order in error."""
    allow_connections(order.max_connections)
    started = datetime.now(UTC)
    bench = run_on_time(_carry_out(order, progress))
    about = {
        "version": VERSION,
        "started": started.isoformat(timespec="seconds"),
        "command": order.command,
    }
    return replace(bench, about=about)


def run_on_time(work: Coroutine[None, None, Result]) -> Result:
    """Run on uvloop where it is installed: its timers are less late than asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def allow_connections(number: int) -> None:
    """Have the system allow as many open files. Raises ValueError where it does not."""
    wanted = number + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"{number} connections need {wanted} open files, and the system allows {hard}; give "
            "fewer --connections, or raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _carry_out(order: BenchOrder, progress: Progress) -> Bench:
    requests = [build_request(order.target, order.shape, each) for each in order.pictures]
    pool = ConnectionPool(
        order.target.host,
        order.target.port,
        tls=_tls(order) if order.target.is_tls else None,
        max_connections=order.max_connections,
        timeout_s=order.timeout_s,
    )
    campaign = Campaign(pool, requests, order.plan, progress)
    try:
        await campaign.try_once()
        if order.objectives:
            search = await campaign.search(order.objectives, order.rates_per_s[0])
            runs = [run for run, _ in search.runs]
        else:
            search = None
            runs = await campaign.run_rates(order.rates_per_s)
    finally:
        await pool.close()
    return Bench(about={}, target=_target(order), plan=_plan(order), runs=runs, search=search)


def _tls(order: BenchOrder) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if order.takes_any_certificate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _target(order: BenchOrder) -> dict[str, object]:
    sizes = [len(each.content) for each in order.pictures]
    return {
        "url": order.target.origin + order.target.resource,
        "method": order.shape.method,
        "body": order.shape.body,
        "pictures": len(sizes),
        "picture_bytes": round(sum(sizes) / len(sizes)),
        "options": dict(order.shape.options),
    }


def _plan(order: BenchOrder) -> dict[str, object]:
    plan = order.plan
    return {
        "arrivals": plan.arrivals,
        "seed": plan.seed,
        "seconds": plan.seconds,
        "warm_up_s": plan.warm_up_s,
        "pause_s": plan.pause_s,
        "deadline_ms": None if plan.deadline_s is None else 1000 * plan.deadline_s,
        "timeout_ms": 1000 * order.timeout_s,
        "connections": order.max_connections,
        "max_lag_ms": 1000 * plan.max_lag_s,
    }
