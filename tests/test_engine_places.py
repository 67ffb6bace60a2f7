"""Models that share an engine: whose turn it is."""

import asyncio
from collections.abc import Awaitable, Callable

from service.scheduler.engine_places import EnginePlaces


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def with_places(num_places: int, use: Callable[[EnginePlaces, Clock], Awaitable[None]]) -> None:
    clock = Clock()

    async def run() -> None:
        await use(EnginePlaces(num_places, clock=clock), clock)

    asyncio.run(run())


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_take__gives_out_every_place_once() -> None:
    async def use(places: EnginePlaces, clock: Clock) -> None:
        assert {await places.take("a"), await places.take("b")} == {0, 1}
        third = asyncio.ensure_future(places.take("a"))
        await settled()
        assert not third.done()
        places.give_back(1, "b")
        assert await third == 1

    with_places(2, use)


def test_give_back__to_the_model_that_has_had_the_least_time() -> None:
    async def use(places: EnginePlaces, clock: Clock) -> None:
        turns: list[str] = []

        async def model(name: str, seconds: float, times: int) -> None:
            for _ in range(times):
                place = await places.take(name)
                turns.append(name)
                clock.now_s += seconds
                await settled()
                places.give_back(place, name)

        await asyncio.gather(model("slow", 3.0, 4), model("quick", 1.0, 12))
        assert turns[:8].count("slow") == 2
        assert turns[:12].count("slow") == 3

    with_places(1, use)


def test_take__cancelled_while_waiting_loses_no_place() -> None:
    async def use(places: EnginePlaces, clock: Clock) -> None:
        place = await places.take("a")
        gone = asyncio.ensure_future(places.take("b"))
        kept = asyncio.ensure_future(places.take("c"))
        await settled()
        gone.cancel()
        await settled()
        places.give_back(place, "a")
        assert await kept == 0

    with_places(1, use)


def test_take__cancelled_at_the_moment_of_its_turn_hands_it_on() -> None:
    async def use(places: EnginePlaces, clock: Clock) -> None:
        place = await places.take("a")
        gone = asyncio.ensure_future(places.take("b"))
        kept = asyncio.ensure_future(places.take("c"))
        await settled()
        places.give_back(place, "a")
        gone.cancel()
        assert await kept == 0

    with_places(1, use)


def test_free_at_s__tells_what_is_expected() -> None:
    async def use(places: EnginePlaces, clock: Clock) -> None:
        place = await places.take("a")
        places.expect(place, 5.0)
        assert places.free_at_s() == [0.0, 5.0]
        clock.now_s = 2.0
        places.give_back(place, "a")
        await settled()
        assert places.free_at_s() == [0.0, 2.0]

    with_places(2, use)


def test_num_competing__counts_models_that_wait() -> None:
    async def use(places: EnginePlaces, clock: Clock) -> None:
        await places.take("a")
        assert places.num_competing("a") == 1
        waiting = [asyncio.ensure_future(places.take(name)) for name in "bbc"]
        await settled()
        assert places.num_competing("a") == 3
        assert places.num_competing("b") == 2
        for each in waiting:
            each.cancel()

    with_places(1, use)
