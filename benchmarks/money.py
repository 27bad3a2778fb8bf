"""What budgets cost a call: pricing its estimate, reserving, pricing what it took, and settling."""

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import best_of, table
from loco_otel._budgets.reservation import Bill, Estimate, Purchase, Subject
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State
from loco_otel._runtime import process
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.process import Runtime
from loco_otel._waiting import threads
from loco_otel.events import DEFAULT_RESOURCE, Request, Usage

_WRITERS = 8
_CALLS = 300
_ESTIMATE = Estimate(Usage(800, 200, estimated=True), 1000)
_BILL = Bill(Usage(812, 120), 1000, "gpt-4o-2024-08-06", None)
_BUDGETS = {"LOCO_BUDGETS": "agent=100000,*=1000000", "LOCO_BUDGET_PERIOD": "day"}


def _subject() -> Subject:
    return Subject(Identity("agent"), "openai", "api.openai.com", "gpt-4o", lambda _: _ESTIMATE, lambda _: True)


def _call(runtime: Runtime, request: Request, subject: Subject | None) -> None:
    """Take a slot and give it back, and pay where there is something to pay for."""
    engine = runtime.engine
    ticket = engine.ticket(request)
    if subject is None:
        engine.submit(ticket)
        engine.release(ticket)
        return
    purchase = Purchase(runtime.budgets, subject)
    if request.admission:
        ticket.admission = purchase.admit
    engine.submit(ticket)
    if ticket.state is not State.GRANTED:
        threads.decided(engine, ticket)
    if request.admission:
        runtime.budgets.wait_no_more(ticket)
    purchase.settle(ticket, _BILL)
    engine.release(ticket)


def _loop(environ: dict[str, str], *, paid: bool) -> Callable[[int], None]:
    runtime = Runtime(Settings.load({"LOCO_CAPACITY": "2", **environ}))
    request = Request("agent", resources=(DEFAULT_RESOURCE,), model="gpt-4o", admission=runtime.budgets.limited)
    subject = _subject() if paid else None

    def run(count: int) -> None:
        for _ in range(count):
            _call(runtime, request, subject)

    return run


def _write(path: str, _: int) -> tuple[float, float]:
    """Make calls under the ledger in a file; return CPU and wall seconds."""
    run = _loop({**_BUDGETS, "LOCO_LEDGER": path}, paid=True)
    run(10)
    cpu, wall = time.process_time(), time.perf_counter()
    run(_CALLS)
    return time.process_time() - cpu, time.perf_counter() - wall


def run() -> dict[str, float]:
    """Measure, print, and return microseconds of a call by way."""
    process.replace(None)
    without = "no money"
    times = best_of(
        {
            without: _loop({}, paid=False),
            "priced and counted": _loop({"LOCO_COUNT_SPEND": "true"}, paid=True),
            "two budgets, in memory": _loop(_BUDGETS, paid=True),
        },
        5_000,
    )
    table("Slot taken and given back, with what is paid (goal: two budgets add at most 15 us)", times, without)
    print(f"  two budgets add {times['two budgets, in memory'] - times[without]:.1f} us")
    with TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(_WRITERS) as pool:
        path = str(Path(folder, "ledger.db"))
        _loop({**_BUDGETS, "LOCO_LEDGER": path}, paid=True)(1)
        ends = pool.map(partial(_write, path), range(_WRITERS), chunksize=1)
    calls = _WRITERS * _CALLS
    cpu = sum(end[0] for end in ends) / calls * 1e6
    print(f"\nThe same with the ledger in one file, {_WRITERS} processes at full speed (goal: at most 1 ms a call)")
    print(f"  CPU of a call            {cpu:10.0f} us")
    print(f"  calls a second, together {calls / max(end[1] for end in ends):10.0f}")
    print(f"  time for each call       {max(end[1] for end in ends) / calls * 1e6:10.0f} us")
    return {**times, "file, CPU": cpu}
