"""Time, injected.

Everything that reads the time takes a `Clock`. The core takes `now` as an argument instead.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""A monotonic clock in seconds; only differences are meaningful."""

monotonic: Clock = time.monotonic
"""The monotonic clock of a running program."""
