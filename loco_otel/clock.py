"""Time, injected.

Everything that reads the time takes a `Clock`. The core takes `now` as an argument instead.
"""

import time
from collections.abc import Callable


class StatedDelay(float):
    """Seconds that a provider states, with the header that states them.

    Example:
        >>> delay = StatedDelay(20.0)
        >>> delay.header = 'retry-after'
        >>> delay + 1, delay.header
        (21.0, 'retry-after')

    """

    __slots__ = ("header",)
    header: str
    """Set by its maker: a constructor of its own would take five times as long, at each answer."""


Clock = Callable[[], float]
"""A monotonic clock in seconds; only differences are meaningful."""

monotonic: Clock = time.monotonic
"""The monotonic clock of a running program."""
