"""Time, injected.

Everything that needs the time takes a `Clock`. The core never sees one: it is given `now`.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds on a scale that never goes back; only differences mean anything."""

monotonic: Clock = time.monotonic
"""The clock of a running program."""
