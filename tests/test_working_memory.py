import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.codecs.images import ImageLimits, probe
from service.detection import DetectOptions
from service.errors import DeadlineExceeded
from service.model_options import postprocess_settings
from service.scheduler.working_memory import WorkingMemory
from service.settings import Settings
from service.stages import Asked, NetworkInput, Stages
from tests.fake_serving import SIDE, fake_detector
from tests.pictures import one_of_each_format


def in_a_while() -> float:
    return time.monotonic() + 30


def test_share__gives_back_what_it_took_however_it_ends() -> None:
    memory = WorkingMemory(100)

    def fail() -> None:
        with memory.share(in_a_while()) as take:
            take(60)
            assert memory.num_free == 40
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert memory.num_free == 100


def test_share__waits_for_room() -> None:
    memory = WorkingMemory(100)
    entered, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        with memory.share(in_a_while()) as take:
            take(80)
            entered.set()
            assert leave.wait(10)
            order.append("first")

    def second() -> None:
        with memory.share(in_a_while()) as take:
            take(50)
            order.append("second")

    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(first)
        assert entered.wait(10)
        waiting = threads.submit(second)
        leave.set()
        running.result()
        waiting.result()
    assert order == ["first", "second"]
    assert memory.num_free == 100


def test_share__at_the_deadline_it_is_too_late_and_the_next_in_line_gets_on() -> None:
    memory = WorkingMemory(100)
    with memory.share(in_a_while()) as take:
        take(60)
        with pytest.raises(DeadlineExceeded), memory.share(time.monotonic() + 0.01) as large:
            large(50)
        with memory.share(in_a_while()) as small:
            small(40)
            assert memory.num_free == 0
    assert memory.num_free == 100


def test_share__more_than_there_is_runs_alone() -> None:
    memory = WorkingMemory(100)
    with memory.share(in_a_while()) as take:
        take(1000)
        assert memory.num_free == 0
    assert memory.num_free == 100


def test_share__never_gives_out_more_than_there_is() -> None:
    memory = WorkingMemory(100)
    least: list[int] = []

    def job(number: int) -> None:
        with memory.share(in_a_while()) as take:
            take(number % 97 + 1)
            least.append(memory.num_free)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(job, range(2000)))
    assert min(least) >= 0
    assert memory.num_free == 100


@pytest.mark.parametrize("name", ["jpeg", "jpeg cmyk", "png 16 bits", "webp lossy", "tiff", "gif"])
def test_prepare__reserves_what_the_format_takes(tmp_path: Path, name: str) -> None:
    data = one_of_each_format()[name]
    limits = ImageLimits(1 << 20, 1 << 20)
    memory = WorkingMemory(probe(data, limits).working_bytes)
    model = fake_detector(tmp_path).registry.resolve("boxes")
    options = DetectOptions()
    settings = postprocess_settings(model.source, options)

    def prepare(deadline_s: float) -> NetworkInput:
        asked = Asked(data, options, model, settings, time.monotonic(), deadline_s, draws=False)

        async def admitted() -> NetworkInput:
            with model.batcher.admit(priority="normal", deadline_s=in_a_while()) as place:
                return Stages(limits, memory).prepare(asked, place)

        return asyncio.run(admitted())

    assert prepare(in_a_while()).pixels.shape == (SIDE, SIDE, 3)
    with memory.share(in_a_while()) as take:
        take(1)
        with pytest.raises(DeadlineExceeded):
            prepare(time.monotonic() + 0.05)


def test_settings__the_largest_picture_of_any_format_must_fit() -> None:
    assert Settings(max_image_pixels=1000, max_working_bytes=16_000)
    with pytest.raises(ValueError, match="MAX_WORKING_BYTES=15999 is less than the 16000"):
        Settings(max_image_pixels=1000, max_working_bytes=15_999)
