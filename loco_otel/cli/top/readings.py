"""Reads the page of each process in a thread of its own, so that one that hangs delays no other."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from loco_otel.cli.metrics_page import MetricsPage, PageError, fetch_page

MEMORY = 10.0
"""Seconds over which changes of counters are shown."""
_UNREAD = "not read yet"


class Reading(NamedTuple):
    """What is read of one process."""

    url: str
    page: MetricsPage | None
    """The last one; None before the first."""
    earlier: MetricsPage | None
    """The oldest one of the last `MEMORY` seconds; None without a second one."""
    fault: str | None
    """Why there is no current page; None while there is one."""
    seconds: float
    """Since the last page, or since the start if there was none."""
    pending: float
    """Seconds that the request under way has taken so far; 0 without one."""

    @property
    def is_current(self) -> bool:
        """Whether the page is the present state."""
        return self.page is not None and self.fault is None


class PageReader:
    """Reads one page again and again in a daemon thread, until it is closed.

    Args:
        url: the page.
        interval: seconds between two requests.
        timeout: seconds that a request may take.
        fetch: reads the page once.

    """

    def __init__(
        self,
        url: str,
        interval: float,
        timeout: float,
        fetch: Callable[[str, float], MetricsPage] = fetch_page,
    ) -> None:
        self._url = url
        self._interval = interval
        self._timeout = timeout
        self._fetch = fetch
        self._lock = threading.Lock()
        self._pages: deque[tuple[float, MetricsPage]] = deque()
        self._fault: str | None = _UNREAD
        self._read_at = self._asked_at = time.monotonic()
        self._is_asking = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"loco-otel top {url}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """End after the request that is under way, without waiting for it."""
        self._closed.set()

    def get_reading(self) -> Reading:
        """Return the present reading."""
        now = time.monotonic()
        with self._lock:
            page = self._pages[-1][1] if self._pages else None
            earlier = self._pages[0][1] if len(self._pages) > 1 else None
            pending = now - self._asked_at if self._is_asking else 0.0
            return Reading(self._url, page, earlier, self._fault, now - self._read_at, pending)

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                self._asked_at, self._is_asking = time.monotonic(), True
            try:
                page, fault = self._fetch(self._url, self._timeout), None
            except PageError as error:
                page, fault = None, str(error)
            with self._lock:
                self._store(page, fault)
            self._closed.wait(self._interval)

    def _store(self, page: MetricsPage | None, fault: str | None) -> None:
        now = time.monotonic()
        self._fault, self._is_asking = fault, False
        if page is None:
            return
        self._read_at = now
        self._pages.append((now, page))
        while len(self._pages) > 2 and self._pages[0][0] < now - MEMORY:  # noqa: PLR2004 - two make a change
            self._pages.popleft()
