"""For tests: a clock that goes on only when told to, and a listener that keeps what it is told.

Nothing here sleeps or starts a thread, so that a test of a timeout takes no time and always gives the same result.
"""

from typing import TypeVar

from loco_otel.events import Event

_Kind = TypeVar("_Kind", bound=Event)


class ManualClock:
    """A `loco_otel.clock.Clock` that stands still until `advance`.

    Args:
        start: what it shows at first.

    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """Tell the time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Go on by so many seconds.

        Raises:
            ValueError: the clock would go back.

        """
        if seconds < 0:
            raise ValueError(f"a clock never goes back, not even by {-seconds} s")
        self._now += seconds


class RecordingListener:
    """A `loco_otel.events.Listener` that keeps all events, in the order in which it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Keep one event."""
        self.events.append(event)

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]
