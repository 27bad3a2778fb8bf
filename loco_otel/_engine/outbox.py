"""Delivery outside the engine's lock: waiters are woken first, then listeners are called, each in order."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any

from loco_otel._core.ticket import Ticket
from loco_otel._engine.timer import Timer
from loco_otel.events import Event, Listener

_logger = logging.getLogger("loco_otel")

_MAX_EVENTS = 10_000

_MAX_CALLER_EVENTS, _MAX_CALLER_SECONDS = 64, 0.005
"""The most that one caller delivers. A background thread delivers the rest."""

_FLUSH_TIMEOUT, _POLL_INTERVAL = 1.0, 0.001
"""Seconds: how long a flush waits for the delivery by another thread, and between two checks of it."""

_OVERFLOW_WARNING = (
    "listeners are %d events behind, and the oldest events are dropped: spans and metrics are incomplete, calls are "
    "not affected; use a BatchSpanProcessor or a faster exporter (logged once)"
)
_LISTENER_ERROR = "listener %r raised and is removed: it receives no further events; calls are not affected"
_WAKE_ERROR = "the callback that wakes %r raised; its caller may continue up to a second late"


class Outbox:
    """Filled under the engine's lock, emptied outside it by one thread at a time.

    A thread that finds a delivery in progress leaves its events to that delivery. An item is removed only after it was
    delivered: an exception in between (a KeyboardInterrupt) leaves it for the next delivery, and waking a waiter twice
    is harmless. When listeners fall behind by 10,000 events the oldest are dropped and counted.

    A caller delivers at most the events that it found, and at most 64 or for 5 ms: slow listeners and other threads'
    events do not delay it. The background thread delivers the rest. Without one the caller delivers everything.

    Listeners are called at once, or with `batch_size` events at a time: then the engine bounds how long one is kept.

    Args:
        background: runs the background thread.

    """

    def __init__(self, background: Timer | None = None) -> None:
        self._background = background
        self.dropped = 0
        """Events that no listener received; one for each interrupted operation, whose events may be lost."""
        self.listeners: list[Listener] = []
        self.decided: deque[Ticket] = deque()
        """Tickets whose callers are still to be woken."""
        self._known_listeners: list[Listener] = []
        self._handlers: dict[type[Event], list[tuple[Listener, Callable[[Any], None]]]] = {}
        """What handles each type of event, of the known listeners."""
        self.batch_size = 1
        """Number of events at which listeners are called."""
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._wake_lock = threading.Lock()
        self._delivery_lock = threading.Lock()
        self._delivering_thread: int | None = None
        """The thread that is calling listeners."""
        self._overflowed = False
        self._faults: deque[tuple[int, str, Exception | None]] = deque()
        self._known_faults: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.decided or self._events or self._faults)

    def add_batch(self, decided: Sequence[Ticket], events: Sequence[Event]) -> None:
        """Add the decisions and events of an operation. Called under the engine's lock."""
        self.decided.extend(decided)
        if not events:
            return
        self.dropped += max(0, len(self._events) + len(events) - _MAX_EVENTS)
        self._events.extend(events)

    def add_fault(self, level: int, message: str, error: Exception | None = None) -> None:
        """Add a log message, once per text. For code under the engine's lock, where a log handler must not run."""
        if message not in self._known_faults:
            self._known_faults.add(message)
            self._faults.append((level, message, error))

    def deliver_due(self) -> None:
        """Wake callers, write log messages, and call listeners if a batch is complete. Called outside the lock."""
        # `with` acquires and releases a lock in one bytecode each, so no KeyboardInterrupt leaves it held.
        while self.decided and not self._wake_lock.locked():
            with self._wake_lock:
                _wake_tickets(self.decided)
        while self._faults:
            with suppress(IndexError):  # another thread may have logged it
                level, message, error = self._faults.popleft()
                _logger.log(level, message, exc_info=error)
        if len(self._events) == _MAX_EVENTS and not self._overflowed:
            self._overflowed = True
            _logger.warning(_OVERFLOW_WARNING, _MAX_EVENTS)
        if len(self._events) >= self.batch_size:
            if self._background is None:
                self.deliver_events()
            else:
                self._deliver_bounded(self._background)

    def _deliver_bounded(self, background: Timer) -> None:
        """Call listeners with a bounded number of events, and leave the rest to the background thread."""
        events = self._events
        if not self._delivery_lock.locked():
            with self._delivery_lock:
                self._delivering_thread = threading.get_ident()
                give_up = time.monotonic() + _MAX_CALLER_SECONDS
                for _ in range(min(len(events), _MAX_CALLER_EVENTS)):
                    self._deliver_first()
                    if time.monotonic() >= give_up:
                        break
                self._delivering_thread = None
            if len(events) >= self.batch_size and not background.start_watching(self._deliver_in_background):
                self.deliver_events()

    def _deliver_in_background(self) -> float:
        """Call listeners with all events, and return when to do so again: only when the timer is woken."""
        self.deliver_events()
        return inf

    def deliver_events(self) -> None:
        """Call listeners with all events."""
        while self._events and not self._delivery_lock.locked():
            with self._delivery_lock:
                self._delivering_thread = threading.get_ident()
                while self._events:
                    self._deliver_first()
                self._delivering_thread = None

    def flush(self) -> bool:
        """Deliver all events, and wait up to 1 s while another thread delivers; return whether none is left.

        A listener may flush: its own thread delivers then, and the rest follows when the listener returns.
        """
        give_up = time.monotonic() + _FLUSH_TIMEOUT
        self.deliver_events()
        # An event is removed after its delivery, so none is in progress once all are removed. Deliveries of several
        # threads may follow each other: this thread delivers whenever it finds the lock free.
        while self._events and time.monotonic() < give_up:
            if self._delivery_lock.locked() and self._delivering_thread == threading.get_ident():
                break
            time.sleep(_POLL_INTERVAL)
            self.deliver_events()
        return not self._events

    def create_child_outbox(self) -> "Outbox":
        """Return the outbox of a forked child: the same listeners, without the parent's undelivered items."""
        fresh = Outbox(None if self._background is None else self._background.create_child_timer())
        fresh.listeners = self.listeners
        fresh.batch_size = self.batch_size
        return fresh

    def _deliver_first(self) -> None:
        """Call listeners with the oldest event, and remove it."""
        events = self._events
        try:
            event = events[0]
        except IndexError:
            return
        if self._known_listeners != self.listeners:
            self._known_listeners = self.listeners.copy()
            self._handlers = {}
        kind = type(event)
        handlers = self._handlers.get(kind)
        if handlers is None:
            handlers = self._handlers[kind] = _find_handlers(self._known_listeners, kind)
        for listener, handle in handlers:
            try:
                handle(event)
            except Exception:
                _logger.exception(_LISTENER_ERROR, listener)
                self.listeners.remove(listener)
        # A full deque drops items at this end, so the event may have been removed.
        if events and events[0] is event:
            events.popleft()


def _find_handlers(listeners: Sequence[Listener], kind: type[Event]) -> list[tuple[Listener, Callable[[Any], None]]]:
    """Return what handles a type of event: the listeners, or the handlers of those that have one for each type."""
    found = []
    for listener in listeners:
        handlers: Mapping[type[Event], Callable[[Any], None]] | None = getattr(listener, "event_handlers", None)
        handle = listener if handlers is None else handlers.get(kind)
        if handle is not None:
            found.append((listener, handle))
    return found


def _wake_tickets(tickets: deque[Ticket]) -> None:
    """Wake the callers of all tickets. One thread at a time."""
    while tickets:
        ticket = tickets[0]
        wake = ticket.wake
        if wake is not None:
            try:
                wake()
            except Exception:
                _logger.exception(_WAKE_ERROR, ticket)
        tickets.popleft()
