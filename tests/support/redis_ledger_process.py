"""A process of its own with a ledger on a server: `python redis_ledger_process.py URL NAMESPACE TTL WHAT`."""

import sys
import threading
import time

from patience import PATIENCE

from loco_otel._budgets.ledger_client import LedgerClient
from loco_otel._budgets.redis.ledger import LedgerServer, RedisLedger
from loco_otel._core.ticket import Ticket
from loco_otel.errors import LedgerError
from loco_otel.events import Request
from loco_otel.money import Budget, Charge, Scope

CALLERS = 64
AMOUNT = 10
LIMIT = 1_000


def make_charge(usd: int, agent: str = "agent") -> Charge:
    return Charge(agent, None, None, "gpt-4o", usd, 1000)


def make_ledger(url: str, namespace: str, ttl: float = 5.0, timeout: float = 60.0, limit: int = LIMIT) -> RedisLedger:
    return RedisLedger(LedgerServer(url, namespace, ttl, timeout), [Budget(Scope.ALL, "*", limit)])


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def hold(ledger: RedisLedger) -> None:
    """Spend something, make reservations, report it, and wait for the end."""
    ledger.settle_reservation("done", make_charge(300), 0.0)
    for number in range(30):
        ledger.reserve_estimate(f"under way {number}", make_charge(20), 0.0)
    print_line("holding")
    sys.stdin.read()


def spend(ledger: RedisLedger) -> None:
    """Let callers at a barrier reserve and settle, and report what they have spent."""
    barrier = threading.Barrier(CALLERS)
    spent: list[int] = []

    def call(number: int) -> None:
        barrier.wait()
        name = f"{ledger._link.owner}-{number}"
        if ledger.reserve_estimate(name, make_charge(AMOUNT), 0.0).admitted:
            amount = AMOUNT - number % 3
            ledger.settle_reservation(name, make_charge(amount), 0.0)
            spent.append(amount)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    print_line("ready")
    sys.stdin.readline()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    print_line(str(sum(spent)))


def work(ledger: RedisLedger) -> None:
    """Let threads reserve and settle until the input ends, whatever the server does, and report what they spent."""
    client = LedgerClient(ledger, time.time, lambda *_: None)
    client.start_maintenance()
    stop = threading.Event()
    spent: list[int] = []

    def call_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            ticket = Ticket(Request("agent", 1000), ledger._link.owner)
            try:
                if not client.reserve_estimate(ticket, make_charge(AMOUNT), ()).admitted:
                    raise AssertionError("the limit is far away")
            except LedgerError:
                time.sleep(0.01)  # as a program that tries again: without a pause it keeps the CPU from the others
                continue
            if number % 5 == 0:
                client.cancel_reservation(ticket)
            else:
                client.settle_reservation(ticket, make_charge(number % AMOUNT))
                spent.append(number % AMOUNT)

    threads = [threading.Thread(target=call_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    print_line("working")
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    give_up = time.monotonic() + PATIENCE
    while client._deferred and time.monotonic() < give_up:
        client.write_deferred()
        time.sleep(0.05)  # between two attempts, as the maintenance has them
    print_line(f"{sum(spent)} {len(spent)} {len(client._deferred)}")


if __name__ == "__main__":
    url, namespace, ttl, what = sys.argv[1:]
    if what == "work":
        made = make_ledger(url, namespace, float(ttl), timeout=0.25, limit=10**12)
    else:
        made = make_ledger(url, namespace, float(ttl))
    {"hold": hold, "spend": spend, "work": work}[what](made)
    made.close()
