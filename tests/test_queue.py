from service.detection import Priority
from service.scheduler.queue import QueuedRequest, RequestQueue


def waiting(name: str, priority: Priority = "normal", deadline_s: float = 100.0):
    return QueuedRequest(name, priority, queued_at_s=0.0, deadline_s=deadline_s)


def names(requests: list[QueuedRequest[str]]) -> list[str]:
    return [request.payload for request in requests]


def test_next_batch__in_the_order_of_arrival() -> None:
    queue: RequestQueue[str] = RequestQueue(10)
    for name in "abc":
        queue.push(waiting(name))
    assert names(queue.next_batch(2, 0.0)[0]) == ["a", "b"]
    assert names(queue.next_batch(2, 0.0)[0]) == ["c"]
    assert queue.next_batch(2, 0.0) == ([], [])


def test_next_batch__higher_priority_goes_first() -> None:
    queue: RequestQueue[str] = RequestQueue(10)
    queue.push(waiting("low", "low"))
    queue.push(waiting("normal"))
    queue.push(waiting("high", "high"))
    assert names(queue.next_batch(3, 0.0)[0]) == ["high", "normal", "low"]


def test_next_batch__the_late_are_passed_over_and_named() -> None:
    queue: RequestQueue[str] = RequestQueue(10)
    queue.push(waiting("late", deadline_s=1.0))
    queue.push(waiting("on time"))
    batch, expired = queue.next_batch(1, now_s=1.0)
    assert names(batch) == ["on time"]
    assert names(expired) == ["late"]


def test_next_batch__the_cancelled_vanish() -> None:
    queue: RequestQueue[str] = RequestQueue(10)
    gone = waiting("gone")
    queue.push(gone)
    queue.push(waiting("here"))
    gone.cancelled = True
    batch, expired = queue.next_batch(8, 0.0)
    assert names(batch) == ["here"]
    assert expired == []


def test_is_full__at_its_bound() -> None:
    queue: RequestQueue[str] = RequestQueue(1)
    assert not queue.is_full
    queue.push(waiting("a"))
    assert queue.is_full
