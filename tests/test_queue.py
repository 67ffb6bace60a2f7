"""The queue's policy, as examples. Batches take 1 s and 1 s for each picture."""

from dataclasses import dataclass, field

from service.detection import Priority
from service.scheduler.latency import LatencyModel
from service.scheduler.queue import Engine, QueuedRequest, RequestQueue


def latency() -> LatencyModel:
    return LatencyModel({size: 1.0 + size for size in range(1, 17)})


@dataclass
class Scene:
    """A queue and its engine; requests are named by letters."""

    max_batch_size: int = 4
    num_places: int = 1
    max_waiting: int = 100
    now_s: float = 0.0
    queue: RequestQueue[str] = field(init=False)

    def __post_init__(self) -> None:
        self.queue = RequestQueue(self.max_waiting, ageing_s=100.0)
        self.free_at_s = [self.now_s] * self.num_places

    @property
    def engine(self) -> Engine:
        return Engine(self.max_batch_size, latency(), self.free_at_s)

    def request(
        self,
        name: str,
        priority: Priority = "normal",
        *,
        within_s: float = 1000.0,
        client: str = "",
    ) -> QueuedRequest[str]:
        return QueuedRequest(name, priority, self.now_s, self.now_s + within_s, client=client)

    def waits(
        self,
        names: str,
        priority: Priority = "normal",
        *,
        within_s: float = 1000.0,
        client: str = "",
    ) -> None:
        for name in names:
            self.queue.push(self.request(name, priority, within_s=within_s, client=client))

    def next(self) -> str:
        """The names of the next batch, in its order."""
        return "".join(each.payload for each in self.queue.next_batch(self.now_s, self.engine)[0])

    def late_by_s(self, request: QueuedRequest[str]) -> float:
        return self.queue.late_by_s(request, self.now_s, self.engine)


# ------------------------------------------------------------------------------- who goes next


def test_next_batch__takes_what_waits_and_never_waits_for_more() -> None:
    scene = Scene(max_batch_size=4)
    scene.waits("a")
    assert scene.next() == "a"
    assert scene.next() == ""


def test_next_batch__of_equal_requests_in_the_order_of_arrival() -> None:
    scene = Scene(max_batch_size=2)
    scene.waits("abc")
    assert scene.next() == "ab"
    assert scene.next() == "c"


def test_next_batch__less_time_goes_first() -> None:
    scene = Scene(max_batch_size=2)
    scene.waits("a", within_s=300)
    scene.waits("b", within_s=100)
    scene.waits("c", within_s=200)
    assert scene.next() == "bc"


def test_next_batch__higher_priority_goes_before_less_time() -> None:
    scene = Scene(max_batch_size=1)
    scene.waits("l", "low", within_s=50)
    scene.waits("n", "normal", within_s=100)
    scene.waits("h", "high", within_s=1000)
    assert [scene.next() for _ in range(3)] == ["h", "n", "l"]


def test_next_batch__who_has_waited_goes_up_a_step() -> None:
    scene = Scene(max_batch_size=1)
    scene.waits("l", "low")
    scene.now_s = 99.0
    scene.waits("n", "normal", within_s=900)
    assert scene.next() == "n"
    scene.now_s = 100.0
    scene.waits("m", "normal", within_s=950)
    assert scene.next() == "l"


def test_next_batch__clients_take_turns_whatever_they_have_queued() -> None:
    scene = Scene(max_batch_size=4)
    scene.waits("aaaaaa", client="A")
    scene.waits("bb", client="B")
    assert sorted(scene.next()) == ["a", "a", "b", "b"]


def test_next_batch__who_was_away_gets_its_share_and_no_more() -> None:
    scene = Scene(max_batch_size=1)
    scene.waits("aaaaaaaaa", client="A")
    assert [scene.next() for _ in range(3)] == ["a", "a", "a"]
    scene.waits("bbbb", client="B")
    assert "".join(scene.next() for _ in range(6)).count("b") == 3


def test_discard__makes_place() -> None:
    scene = Scene(max_waiting=1)
    gone = scene.request("x")
    scene.queue.push(gone)
    assert scene.queue.is_full
    scene.queue.discard(gone)
    assert not scene.queue.is_full
    scene.queue.discard(gone)
    assert scene.next() == ""


# ------------------------------------------------------------------------------ how large it is


def test_next_batch__is_no_larger_than_lets_its_members_be_in_time() -> None:
    scene = Scene(max_batch_size=4)
    scene.waits("a", within_s=3.0)
    scene.waits("bcd")
    # Two pictures take three seconds.
    assert scene.next() == "ab"


def test_next_batch__one_with_little_time_goes_alone_where_the_others_can_wait() -> None:
    scene = Scene(max_batch_size=4)
    scene.waits("a", within_s=2.0)
    scene.waits("bcde")
    assert scene.next() == "a"
    scene.now_s = 2.0
    assert scene.next() == "bcde"


def test_next_batch__one_with_little_time_is_left_out_where_many_would_be_late() -> None:
    scene = Scene(max_batch_size=4)
    scene.waits("a", within_s=2.0)
    scene.waits("bcde", within_s=5.0)
    # With "a" alone first the others would be done after seven seconds.
    assert scene.next() == "bcde"


def test_next_batch__a_high_priority_is_not_left_out_for_many_of_a_lower() -> None:
    scene = Scene(max_batch_size=4)
    scene.waits("a", "high", within_s=2.0)
    scene.waits("bcde", within_s=5.0)
    assert scene.next() == "a"


# ----------------------------------------------------------------------------- what is given up


def test_next_batch__gives_up_what_cannot_be_in_time_any_more() -> None:
    scene = Scene()
    scene.waits("a", within_s=1.9)
    scene.waits("b", within_s=2.0)
    batch = scene.queue.next_batch(0.0, scene.engine)
    assert [each.payload for each in batch.hopeless] == ["a"]
    assert [each.payload for each in batch.members] == ["b"]
    assert len(scene.queue) == 0


# ------------------------------------------------------------------------------ what is refused


def test_late_by_s__nothing_ahead() -> None:
    scene = Scene()
    assert scene.late_by_s(scene.request("a", within_s=2.0)) == 0
    assert scene.late_by_s(scene.request("a", within_s=1.5)) == 0.5


def test_late_by_s__counts_the_batch_that_runs() -> None:
    scene = Scene()
    scene.free_at_s = [3.0]
    assert scene.late_by_s(scene.request("a", within_s=4.0)) == 1.0


def test_late_by_s__counts_full_batches_ahead() -> None:
    scene = Scene(max_batch_size=4)
    scene.waits("abcd")
    # Five seconds for these four, then two for the new one.
    assert scene.late_by_s(scene.request("e", within_s=1000.0)) == 0
    scene = Scene(max_batch_size=4)
    scene.waits("abcd", within_s=5.0)
    assert scene.late_by_s(scene.request("e", within_s=6.0)) == 1.0


def test_late_by_s__places_run_beside_each_other() -> None:
    scene = Scene(max_batch_size=1, num_places=2)
    scene.waits("abc", within_s=4.0)
    assert scene.late_by_s(scene.request("d", within_s=4.0)) == 0
    scene.waits("d", within_s=4.0)
    assert scene.late_by_s(scene.request("e", within_s=4.0)) == 2.0


def test_late_by_s__does_not_count_what_goes_after() -> None:
    scene = Scene(max_batch_size=1)
    scene.waits("lll", "low")
    scene.waits("nnn", within_s=500)
    assert scene.late_by_s(scene.request("a", "high", within_s=2.0)) == 0
    assert scene.late_by_s(scene.request("a", "normal", within_s=2.0)) == 0


def test_late_by_s__counts_no_more_of_another_client_than_its_share() -> None:
    scene = Scene(max_batch_size=1)
    scene.waits("a" * 20, client="A", within_s=50.0)
    # One of A's goes before B's first: each takes two seconds.
    assert scene.late_by_s(scene.request("b", client="B", within_s=55.0)) == 0
    assert scene.late_by_s(scene.request("a", client="A", within_s=40.0)) == 0
    # All twenty of A go before another of A with more time than they have.
    assert scene.late_by_s(scene.request("a", client="A", within_s=41.0 + 10.0)) == 0
    scene.waits("a" * 10, client="A", within_s=50.0)
    assert scene.late_by_s(scene.request("a", client="A", within_s=52.0)) == 10.0


def test_late_by_s__nothing_is_refused_before_anything_is_known() -> None:
    queue: RequestQueue[str] = RequestQueue(10)
    request = QueuedRequest("a", "normal", 0.0, 0.001)
    assert queue.late_by_s(request, 0.0, Engine(4, LatencyModel(), [0.0])) == 0


def test_is_full__at_its_bound() -> None:
    scene = Scene(max_waiting=1)
    assert not scene.queue.is_full
    scene.waits("a")
    assert scene.queue.is_full


# A request has its place from its arrival on, and runs once it is decoded.


def test_next_batch__what_is_not_decoded_keeps_its_place_and_lets_others_run() -> None:
    scene = Scene()
    slow = scene.request("a")
    slow.is_ready = False
    scene.queue.push(slow)
    scene.waits("bc")
    assert scene.next() == "bc"
    assert not scene.queue.has_ready
    assert scene.next() == ""
    slow.is_ready = True
    assert scene.next() == "a"


def test_late_by_s__counts_what_is_not_decoded_yet() -> None:
    scene = Scene(max_batch_size=1)
    slow = scene.request("a", within_s=2.5)
    slow.is_ready = False
    scene.queue.push(slow)
    # The first takes 2 s, the second another 2 s.
    assert scene.late_by_s(scene.request("b", within_s=3.0)) == 1.0


def test_next_batch__what_cannot_be_in_time_any_more_is_given_up_undecoded() -> None:
    scene = Scene()
    slow = scene.request("a", within_s=5.0)
    slow.is_ready = False
    scene.queue.push(slow)
    scene.now_s = 4.0
    members, hopeless = scene.queue.next_batch(scene.now_s, scene.engine)
    assert members == []
    assert hopeless == [slow]


# A full queue: nobody keeps the others out by asking for more.


def test_displaced_by__the_last_of_the_client_with_the_most_gives_way() -> None:
    scene = Scene(max_waiting=4)
    scene.waits("ab", client="greedy")
    scene.waits("c", client="greedy", within_s=2000.0)
    scene.waits("d", client="other")
    displaced = scene.queue.displaced_by("new", scene.now_s)
    assert displaced is not None
    assert displaced.payload == "c"
    assert len(scene.queue) == 3


def test_displaced_by__of_lower_priority_first() -> None:
    scene = Scene(max_waiting=3)
    scene.waits("a", client="greedy", priority="low", within_s=10.0)
    scene.waits("bc", client="greedy", priority="high", within_s=2000.0)
    displaced = scene.queue.displaced_by("new", scene.now_s)
    assert displaced is not None
    assert displaced.payload == "a"


def test_displaced_by__equals_keep_what_they_have() -> None:
    scene = Scene(max_waiting=4)
    scene.waits("ab", client="one")
    scene.waits("cd", client="two")
    assert scene.queue.displaced_by("one", scene.now_s) is None
    assert scene.queue.displaced_by("two", scene.now_s) is None
    # A third may have one where they have two.
    assert scene.queue.displaced_by("three", scene.now_s) is not None
    scene.waits("e", client="three")
    assert scene.queue.displaced_by("three", scene.now_s) is None
