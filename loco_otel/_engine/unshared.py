"""What an engine has to do with other processes, where it shares nothing with them."""

from collections.abc import Mapping, Sequence

from loco_otel._engine.shared_limits import SharedLimits


class UnsharedEngine:
    """The operations of a shared engine, as no-ops."""

    def restate_limits(self, limits: Mapping[str, SharedLimits], discovered: SharedLimits | None) -> None:
        """State limits that processes share: of resources by name, and of those that are created on request."""

    def take_call_durations(self) -> Sequence[float]:
        """Return the seconds of each call of the shared engine since this was called last."""
        return ()

    def leave(self) -> None:
        """Give up all slots at once, at the end of the process."""
