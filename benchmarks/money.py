"""What budgets cost a call: pricing its estimate, reserving, pricing what it took, and settling."""

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import best_of, print_table
from loco_otel._budgets.reservation import ActualCost, ChargeContext, Estimate, Reservation
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State
from loco_otel._runtime import process
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.runtime import Runtime
from loco_otel._waiting import threads
from loco_otel.events import DEFAULT_RESOURCE, Request, Usage

_WRITERS = 8
_CALLS = 300
_ESTIMATE = Estimate(Usage(800, 200, estimated=True), 1000)
_BILL = ActualCost(Usage(812, 120), 1000, "gpt-4o-2024-08-06", None)
_BUDGETS = {"LOCO_BUDGETS": "agent=100000,*=1000000", "LOCO_BUDGET_PERIOD": "day"}


def _make_context() -> ChargeContext:
    return ChargeContext(Identity("agent"), "openai", "api.openai.com", "gpt-4o", lambda _: _ESTIMATE, lambda _: True)


def _make_call(runtime: Runtime, request: Request, subject: ChargeContext | None) -> None:
    """Take a slot and give it back, and pay where there is something to pay for."""
    engine = runtime.engine
    ticket = engine.create_ticket(request)
    if subject is None:
        engine.submit(ticket)
        engine.release(ticket)
        return
    purchase = Reservation(runtime.budgets, subject)
    if request.admission:
        ticket.admission = purchase.admit_call
    engine.submit(ticket)
    if ticket.state is not State.GRANTED:
        threads.wait_until_decided(engine, ticket)
    if request.admission:
        runtime.budgets.untrack_waiter(ticket)
    purchase.settle_cost(ticket, _BILL)
    engine.release(ticket)


def _make_loop(environ: dict[str, str], *, paid: bool) -> Callable[[int], None]:
    runtime = Runtime(Settings.load({"LOCO_CAPACITY": "2", **environ}))
    request = Request("agent", resources=(DEFAULT_RESOURCE,), model="gpt-4o", admission=runtime.budgets.has_budgets)
    subject = _make_context() if paid else None

    def run(count: int) -> None:
        for _ in range(count):
            _make_call(runtime, request, subject)

    return run


def _write_ledger(path: str, _: int) -> tuple[float, float]:
    """Make calls under the ledger in a file; return CPU and wall seconds."""
    run = _make_loop({**_BUDGETS, "LOCO_LEDGER": path}, paid=True)
    run(10)
    cpu, wall = time.process_time(), time.perf_counter()
    run(_CALLS)
    return time.process_time() - cpu, time.perf_counter() - wall


def run() -> dict[str, float]:
    """Measure, print, and return microseconds of a call by way."""
    process.replace_runtime(None)
    without = "no money"
    times = best_of(
        {
            without: _make_loop({}, paid=False),
            "priced and counted": _make_loop({"LOCO_COUNT_SPEND": "true"}, paid=True),
            "two budgets, in memory": _make_loop(_BUDGETS, paid=True),
        },
        5_000,
    )
    print_table("Slot taken and given back, with what is paid (goal: two budgets add at most 15 us)", times, without)
    print(f"  two budgets add {times['two budgets, in memory'] - times[without]:.1f} us")
    with TemporaryDirectory() as folder, multiprocessing.get_context("spawn").SlotPool(_WRITERS) as pool:
        path = str(Path(folder, "ledger.db"))
        _make_loop({**_BUDGETS, "LOCO_LEDGER": path}, paid=True)(1)
        ends = pool.map(partial(_write_ledger, path), range(_WRITERS), chunksize=1)
    calls = _WRITERS * _CALLS
    cpu = sum(end[0] for end in ends) / calls * 1e6
    print(f"\nThe same with the ledger in one file, {_WRITERS} processes at full speed (goal: at most 1 ms a call)")
    print(f"  CPU of a call            {cpu:10.0f} us")
    print(f"  calls a second, together {calls / max(end[1] for end in ends):10.0f}")
    print(f"  time for each call       {max(end[1] for end in ends) / calls * 1e6:10.0f} us")
    return {**times, "file, CPU": cpu}
