"""Records the pages of running processes, until they end or for a duration."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from loco_otel.cli.metrics_page import MetricsPage, PageError, fetch_page
from loco_otel.cli.report.recording import Recording

_ENDED_AFTER = 3
"""Readings in a row without any page, after which the processes have ended."""

Fetch = Callable[[str, float], MetricsPage]


def record_pages(
    urls: Sequence[str],
    *,
    interval: float,
    duration: float | None,
    patience: float,
    timeout: float,
    fetch: Fetch = fetch_page,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Recording:
    """Return what pages had from time to time; Ctrl-C ends the recording early.

    Args:
        urls: the pages.
        interval: seconds between two readings.
        duration: seconds to record; None is until no page answers any more.
        patience: seconds to wait for a first answer.
        timeout: seconds that a page may take.
        fetch: reads a page.
        clock: seconds since the epoch.
        sleep: waits for seconds.

    Raises:
        PageError: no page has answered in time, or none is of loco-otel.

    """
    recording = Recording(f"the metrics of {', '.join(urls)}")
    started, failed, silent = clock(), 0, 0
    with ThreadPoolExecutor(len(urls)) as pool, suppress(KeyboardInterrupt):
        while duration is None or clock() - started < duration or not recording.times:
            at = clock()
            answers = list(pool.map(lambda url: _try_fetch(fetch, url, timeout), urls))
            pages = [it for it in answers if isinstance(it, MetricsPage)]
            faults = [it for it in answers if isinstance(it, PageError)]
            if pages:
                recording.begin_time(at)
                for page in pages:
                    recording.add_page(page)
                failed, silent = failed + len(faults), 0
            elif not recording.times and at - started >= patience:
                raise faults[0]
            elif recording.times:
                silent += 1
                if duration is None and silent >= _ENDED_AFTER:
                    break
            sleep(max(0.0, at + interval - clock()))
    if not recording.times:
        raise PageError(f"nothing was recorded of {', '.join(urls)}")
    if failed:
        recording.notes.append(f"{failed} readings of single processes failed: their values are missing there.")
    return recording


def _try_fetch(fetch: Fetch, url: str, timeout: float) -> MetricsPage | PageError:
    try:
        return fetch(url, timeout)
    except PageError as error:
        return error
