"""The heap against a sorted list, and the memory that it may take."""

import random

from effort import scale
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loco_otel._core.lazy_heap import Entry, LazyHeap

SLACK = 16


class Item:
    """What cannot be compared."""

    __lt__ = None


class HeapMachine(RuleBasedStateMachine):
    """Few distinct keys, so that equal ones meet, struck and live."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = LazyHeap()
        self.live: list[tuple[tuple[int, int], int, Entry, Item]] = []
        self.pushed = 0

    @rule(key=st.tuples(st.integers(0, 3), st.integers(0, 1)))
    def push(self, key: tuple[int, int]) -> None:
        item = Item()
        entry = self.heap.push_entry(*key, item=item)
        assert entry[:2] == [*key]
        self.pushed += 1
        self.live.append((key, self.pushed, entry, item))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def strike_any(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        *_, entry, _ = self.live.pop(index)
        self.heap.remove_entry(entry)

    @precondition(lambda self: self.live)
    @rule(times=st.integers(1, 5))
    def strike_the_first(self, times: int) -> None:
        for _ in range(min(times, len(self.live))):
            first = self.heap.peek_entry()
            assert first is not None
            self.heap.remove_entry(first)
            self.live.remove(min(self.live))

    @invariant()
    def the_first_is_the_smallest_live_one_and_of_equals_the_one_that_came_first(self) -> None:
        first = self.heap.peek_entry()
        if not self.live:
            assert first is None
            return
        *_, entry, item = min(self.live)
        assert first is entry
        assert first[-1] is item

    @invariant()
    def only_the_live_ones_count(self) -> None:
        assert len(self.heap) == len(self.live)
        assert bool(self.heap) == bool(self.live)

    @invariant()
    def what_is_struck_takes_no_more_room_than_what_is_live(self) -> None:
        assert len(self.heap._heap) <= 2 * len(self.live) + SLACK


TestHeap = HeapMachine.TestCase
TestHeap.settings = settings(max_examples=scale(60), stateful_step_count=60, deadline=None)


def test_memory_does_not_grow_with_removed_entries() -> None:
    heap = LazyHeap()
    heap.push_entry(0, item="first")
    chance = random.Random(1)
    live: list[Entry] = []
    for key in range(1, 20_000):
        live.append(heap.push_entry(key, item="other"))
        while len(live) > 50:
            heap.remove_entry(live.pop(chance.randrange(len(live))))
        assert len(heap._heap) <= 2 * len(heap) + SLACK
    assert len(heap) == 51
    first = heap.peek_entry()
    assert first is not None
    assert first[-1] == "first"


def test_removed_entries_are_not_kept_alive() -> None:
    heap = LazyHeap()
    entry = heap.push_entry(1, item=Item())
    heap.push_entry(0, item="first")
    heap.remove_entry(entry)

    assert not any(isinstance(kept[-1], Item) for kept in heap._heap)
