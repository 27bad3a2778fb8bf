"""Time, injected.

Everything that reads the time takes a `Clock`. The core takes `now` as an argument instead.
"""

import time
from collections.abc import Callable
from typing import Self


class StatedDelay(float):
    """Seconds that a provider states, with the header that states them.

    Example:
        >>> delay = StatedDelay(20.0, 'retry-after')
        >>> delay + 1, delay.header
        (21.0, 'retry-after')

    """

    __slots__ = ("header",)
    header: str

    def __new__(cls, seconds: float, header: str) -> Self:
        """Create one."""
        delay = super().__new__(cls, seconds)
        delay.header = header
        return delay


Clock = Callable[[], float]
"""A monotonic clock in seconds; only differences are meaningful."""

monotonic: Clock = time.monotonic
"""The monotonic clock of a running program."""
