"""What the scheduler reports of patched calls, and how to wait for it without sleeping."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from patience import PATIENCE

import loco_otel
from loco_otel._config.settings import Settings
from loco_otel._runtime import process
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import Event, Granted, Rejected, Released, Request, Spent, Submitted, Suspended, Waiting
from loco_otel.testing import RecordingListener


class AwaitedListener(RecordingListener):
    """Keeps all events, and lets threads wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def __call__(self, event: Event, /) -> None:
        with self._changed:
            super().__call__(event)
            self._changed.notify_all()

    def wait_for(self, kind: type[Event], count: int = 1) -> None:
        """Return once `count` events of a kind have been delivered.

        Raises:
            AssertionError: they were not within `PATIENCE`.

        """

        def received() -> bool:
            return sum(isinstance(event, kind) for event in self._events) >= count

        self.of(kind)  # delivers what has happened
        with self._changed:
            assert self._changed.wait_for(received, PATIENCE), f"no {count} {kind.__name__} among {self._events}"

    async def await_event(self, kind: type[Event], count: int = 1) -> None:
        """Do as `wait_for`, while the event loop runs on where there is one."""
        if asyncio._get_running_loop() is None:
            self.wait_for(kind, count)
        else:
            await asyncio.to_thread(self.wait_for, kind, count)


class Scheduling:
    """A fresh runtime under which the SDKs are patched, its events and its spans."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        names = {key: key.upper() for key in settings}
        environ = {
            name if name.startswith("OTEL_") else f"LOCO_{name}": str(settings[key]) for key, name in names.items()
        }
        runtime = process.replace_runtime(Settings.load(environ)) or process.get_runtime()
        self.runtime: Runtime = runtime
        self.seen = AwaitedListener()
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        runtime.start_telemetry(provider)
        # After telemetry's listener: once an event is seen, the spans that it ends are there.
        runtime.engine.add_listener(self.seen)
        loco_otel.install()

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the ended spans whose name begins so."""
        self.deliver()
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(name)]

    def forget(self) -> None:
        """Drop the events and the spans so far."""
        self.seen.events.clear()
        self._exporter.clear()

    def deliver(self) -> None:
        """Deliver all events so far to the listeners, telemetry first."""
        for _ in range(int(PATIENCE)):
            if self.runtime.engine.flush():
                return

    def active(self) -> int:
        return sum(resource.active for resource in self.runtime.engine.take_snapshot().resources)

    def waiting(self) -> int:
        return sum(resource.waiting for resource in self.runtime.engine.take_snapshot().resources)

    @contextmanager
    def full_until_waiting(self, slots: int, callers: int) -> Iterator[None]:
        """Hold this many slots, all of them, until a number of callers wait; these then start together."""
        engine = self.runtime.engine
        holders = [engine.create_ticket(Request("holder")) for _ in range(slots)]
        for holder in holders:
            engine.submit(holder)
        assert self.active() == slots

        def release() -> None:
            self.seen.wait_for(Waiting, callers)
            for holder in holders:
                engine.release(holder)

        releasing = threading.Thread(target=release, daemon=True)
        releasing.start()
        yield
        releasing.join()

    def settled(self, calls: int) -> None:
        """Check that a number of calls were made, that each gave back what it got, and that nothing is left."""
        seen = self.seen
        seen.wait_for(Submitted, calls)
        asked = Counter(event.ticket.id for event in seen.of(Submitted))
        assert len(asked) == calls
        assert set(asked.values()) == {1}
        seen.wait_for(Released, len(asked) - len(seen.of(Rejected)))
        assert self.active() == 0
        assert self.waiting() == 0
        granted = _count(seen, Granted)
        given_back = _count(seen, Released)
        paused = _count(seen, Suspended)
        rejected = _count(seen, Rejected)
        spent = _count(seen, Spent)
        for ticket in asked:
            assert given_back[ticket] + rejected[ticket] == 1, f"{ticket} has not ended once"
            if not rejected[ticket]:
                # A call that gives up in its pause ends without another grant.
                assert granted[ticket] in (1 + paused[ticket], paused[ticket])
            assert spent[ticket] <= 1

    def close(self) -> None:
        loco_otel.uninstall()
        process.replace_runtime(None)


def _count(seen: AwaitedListener, kind: type[Event]) -> Counter[str]:
    return Counter(event.ticket.id for event in seen.of(kind))


Scheduled = Callable[..., Scheduling]
"""The fixture `scheduled`: `scheduled(capacity=2)` with any settings, as the environment would spell them."""
