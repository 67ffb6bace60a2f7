"""The soak of `benchmarks/soak.py`, short; and that it sees what it looks for."""

import pytest

from benchmarks.soak import SoakReport, judge, soak
from benchmarks.watched_server import Vitals

MIB = 1 << 20


def test_soak__leaves_nothing_behind() -> None:
    report = soak(num_requests=1500, num_cancels=300)
    assert report.faults == []
    assert report.num_cancelled == 300
    assert report.answers.total() == 1200
    assert report.answers["200"] > 600


class Tidy:
    """A server whose folder for temporary files is empty, but for what a test puts there."""

    def __init__(self, *files: str) -> None:
        self.files = list(files)

    def left_files(self) -> list[str]:
        return self.files


STEADY = [Vitals(100 * MIB, 14, 12, 3, 2)] * 8


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (Vitals(100 * MIB, 14, 12, 1, 0), "1 requests"),
        (Vitals(100 * MIB, 14, 12, 0, 2), "2 in queues"),
        (Vitals(100 * MIB, 15, 12, 0, 0), "15 descriptors, 14 before"),
        (Vitals(100 * MIB, 14, 13, 0, 0), "13 threads, 12 halfway"),
    ],
)
def test_judge__tells_what_is_left(after: Vitals, says: str) -> None:
    report = SoakReport(samples=list(STEADY))
    judge(report, after, Tidy())
    assert len(report.faults) == 1
    assert says in report.faults[0]


@pytest.mark.parametrize(("grown", "is_fault"), [(15, False), (17, True)])
def test_judge__tells_of_memory_that_grows(grown: int, is_fault: bool) -> None:
    late = [Vitals((100 + grown) * MIB, 14, 12, 3, 2)] * 2
    report = SoakReport(samples=STEADY[:6] + late)
    judge(report, Vitals(100 * MIB, 14, 12, 0, 0), Tidy())
    assert bool(report.faults) == is_fault


def test_judge__tells_of_temporary_files() -> None:
    report = SoakReport(samples=list(STEADY))
    judge(report, Vitals(100 * MIB, 14, 12, 0, 0), Tidy("tmp1"))
    assert report.faults == ["temporary files: ['tmp1']"]
