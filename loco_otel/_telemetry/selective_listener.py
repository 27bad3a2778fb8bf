"""A listener that handles some types of events."""

from collections.abc import Callable, Mapping
from typing import Any

from loco_otel.events import Event


class SelectiveListener:
    """Has one handler for each type of event that it handles. The outbox calls the handlers directly."""

    event_handlers: Mapping[type[Event], Callable[[Any], None]]
    """By type of event."""

    def __call__(self, event: Event, /) -> None:
        """Handle one event."""
        handle = self.event_handlers.get(type(event))
        if handle is not None:
            handle(event)
