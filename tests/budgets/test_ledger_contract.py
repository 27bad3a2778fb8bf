"""What every ledger does, whether its accounts are in memory, in a file or on a server."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import pytest
from effort import scale
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis_server import RedisServer
from timed_ledger import TimedLedger, use_set_clock

from loco_otel._budgets.account import ADMITTED
from loco_otel._budgets.ledger import Ledger
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._budgets.sqlite_ledger import SqliteLedger
from loco_otel.money import AccountKey, Action, Budget, Charge, Period, Scope, Unit, ends

LEASE = 100.0
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()
HOUR = 3600.0
DAY = 86_400.0

Make = Callable[..., Ledger]


@pytest.fixture(params=["memory", "file", "server"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Ledger] = []
    names = count()

    def make(*budgets: Budget) -> Ledger:
        ledger: Ledger
        if request.param == "memory":
            ledger = MemoryLedger(budgets, UTC, lease=LEASE)
        elif request.param == "file":
            ledger = SqliteLedger(tmp_path / f"{next(names)}.db", budgets, UTC, lease=LEASE)
        else:
            use_set_clock(monkeypatch)
            server, namespace = request.getfixturevalue("shared_server"), request.getfixturevalue("namespace")
            ledger = TimedLedger(server, f"{namespace}-{next(names)}", budgets, UTC, LEASE, NOON)
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        ledger.close()


def charge(usd: int | None = 10, agent: str = "a", **others: object) -> Charge:
    fields: dict[str, object] = {"tenant": None, "team": None, "model": "gpt-4o", "weight": 1000, **others}
    return Charge(agent=agent, usd=usd, **fields)  # type: ignore[arg-type]


def budget(limit: int = 100, scope: Scope = Scope.ALL, key: str | None = "*", **others: object) -> Budget:
    return Budget(scope, key, limit, **others)  # type: ignore[arg-type]


def stands(ledger: Ledger, now: float = NOON) -> dict[str, tuple[int, int]]:
    """Return what is spent and reserved, by the keys of the accounts."""
    return {it.key.key: (it.spent, it.reserved) for it in ledger.read_statuses(now)}


def test_estimate_is_reserved_and_cost_is_spent(make: Make) -> None:
    ledger = make(budget())
    assert ledger.reserve_estimate("1", charge(60), NOON).admitted
    assert stands(ledger) == {"*": (0, 60)}
    settled = ledger.settle_reservation("1", charge(45), NOON + 1)
    assert stands(ledger) == {"*": (45, 0)}
    (standing,) = settled.statuses
    assert (standing.spent, standing.reserved, standing.limit, standing.since) == (45, 0, 100, NOON + 1)


def test_reservation_without_room_reserves_nothing(make: Make) -> None:
    ledger = make(budget(), budget(1000, Scope.AGENT, "a"))
    ledger.reserve_estimate("1", charge(60), NOON)
    decision = ledger.reserve_estimate("2", charge(41), NOON)
    assert not decision.admitted
    (over,) = decision.exceeded
    assert (over.key.scope, over.spent, over.reserved) == (Scope.ALL, 0, 60)
    assert stands(ledger) == {"*": (0, 60), "a": (0, 60)}, "all or none"
    assert ledger.reserve_estimate("3", charge(40), NOON).admitted, "the limit itself may be spent"


def test_judgement_counts_spending_alone_and_reserves_nothing(make: Make) -> None:
    ledger = make(budget())
    ledger.reserve_estimate("1", charge(90), NOON)
    assert ledger.check_estimate(charge(100), NOON).admitted
    assert not ledger.check_estimate(charge(101), NOON).admitted
    ledger.settle_reservation("1", charge(90), NOON)
    assert not ledger.check_estimate(charge(11), NOON).admitted
    assert stands(ledger) == {"*": (90, 0)}


def test_repeated_reservation_changes_nothing(make: Make) -> None:
    ledger = make(budget())
    ledger.reserve_estimate("1", charge(60), NOON)
    assert ledger.reserve_estimate("1", charge(60), NOON) == ADMITTED
    assert stands(ledger) == {"*": (0, 60)}


def test_release_ends_a_reservation_once(make: Make) -> None:
    ledger = make(budget())
    ledger.reserve_estimate("1", charge(60), NOON)
    ledger.cancel_reservation("1", NOON)
    ledger.cancel_reservation("1", NOON)
    ledger.cancel_reservation("nobody's", NOON)
    assert stands(ledger) == {"*": (0, 0)}


def test_call_without_reservation_is_charged(make: Make) -> None:
    ledger = make(budget())
    ledger.settle_reservation("lost", charge(30), NOON)
    assert stands(ledger) == {"*": (30, 0)}


@pytest.mark.parametrize("make", ["memory", "file"], indirect=True)
def test_unrenewed_reservation_expires(make: Make) -> None:
    """On a server they expire with their process, see `test_redis_ledger.py`."""
    ledger = make(budget())
    ledger.reserve_estimate("dead", charge(60), NOON)
    ledger.reserve_estimate("alive", charge(40), NOON)
    ledger.renew_reservations(["alive"], NOON + LEASE / 2)
    assert not ledger.reserve_estimate("next", charge(60), NOON + LEASE - 1).admitted
    assert ledger.reserve_estimate("next", charge(60), NOON + LEASE).admitted
    assert stands(ledger, NOON + LEASE) == {"*": (0, 100)}
    ledger.settle_reservation("dead", charge(5), NOON + LEASE)
    assert stands(ledger, NOON + LEASE) == {"*": (5, 100)}, "it is charged when it ends after all"


@pytest.mark.parametrize("action", list(Action))
def test_budget_admits_by_its_action(action: Action, make: Make) -> None:
    ledger = make(budget(10, action=action))
    decision = ledger.reserve_estimate("1", charge(60), NOON)
    assert decision.admitted is (action is Action.ALERT)
    assert [it.action for it in decision.exceeded] == [action]
    assert ledger.reserve_estimate("2", charge(60), NOON, (Action.ALERT, Action.DOWNGRADE)).admitted is (
        action is not Action.REJECT
    )
    expected = {Action.REJECT: 0, Action.DOWNGRADE: 60, Action.ALERT: 120}[action]
    assert stands(ledger) == {"*": (0, expected)}


def test_units_are_counted_separately(make: Make) -> None:
    ledger = make(budget(100), budget(1500, unit=Unit.WEIGHT))
    assert ledger.reserve_estimate("1", charge(10), NOON).admitted
    refused = ledger.reserve_estimate("2", charge(10), NOON)
    assert [it.key.unit for it in refused.exceeded] == [Unit.WEIGHT]
    assert ledger.settle_reservation("1", charge(None, weight=700), NOON).statuses
    spent = {it.key.unit: it.spent for it in ledger.read_statuses(NOON)}
    assert spent == {Unit.USD: 0, Unit.WEIGHT: 700}, "an unknown price takes weight alone"


def test_default_applies_to_each_unnamed_agent(make: Make) -> None:
    ledger = make(budget(5, Scope.AGENT, None), budget(50, Scope.AGENT, "rich"))
    assert not ledger.reserve_estimate("1", charge(10, "poor"), NOON).admitted
    assert ledger.reserve_estimate("2", charge(10, "rich"), NOON).admitted
    for agent in ("x", "y"):
        assert ledger.reserve_estimate(agent, charge(5, agent), NOON).admitted
    assert stands(ledger).items() >= {"rich": (0, 10), "x": (0, 5), "y": (0, 5)}.items()


def test_budgets_of_each_scope_are_found(make: Make) -> None:
    ledger = make(
        budget(1, Scope.TENANT, "acme"),
        budget(1, Scope.TEAM, "red"),
        budget(1, Scope.MODEL, "gpt-4o*"),
        budget(1, Scope.MODEL, None),
    )
    over = ledger.reserve_estimate("1", charge(2, tenant="acme", team="red", model="gpt-4o-mini"), NOON).exceeded
    assert {it.key.key for it in over} == {"acme", "red", "gpt-4o*"}
    assert {it.key.key for it in ledger.reserve_estimate("2", charge(2, model="o3"), NOON).exceeded} == {"o3"}
    assert ledger.reserve_estimate("3", charge(2, model=None), NOON).admitted


@pytest.mark.parametrize(
    ("period", "length"), [(Period.MINUTE, 60.0), (Period.HOUR, HOUR), (Period.DAY, DAY), (Period.MONTH, 31 * DAY)]
)
def test_new_period_starts_with_nothing_spent(period: Period, length: float, make: Make) -> None:
    ledger = make(budget(100, period=period))
    ledger.settle_reservation("1", charge(100), NOON)
    (standing,) = ledger.read_statuses(NOON)
    assert standing.resets_at is not None
    assert NOON < standing.resets_at <= NOON + length
    assert not ledger.check_estimate(charge(1), standing.resets_at - 1).admitted
    ledger.reserve_estimate("under way", charge(0), NOON)
    assert ledger.check_estimate(charge(100), standing.resets_at).admitted
    (after,) = ledger.read_statuses(standing.resets_at)
    assert (after.spent, after.since) == (0, None)


def test_reservation_lasts_into_the_next_period(make: Make) -> None:
    ledger = make(budget(100, period=Period.MINUTE))
    ledger.reserve_estimate("1", charge(80), NOON + 59)
    assert not ledger.reserve_estimate("2", charge(80), NOON + 61).admitted
    ledger.settle_reservation("1", charge(80), NOON + 62)
    assert stands(ledger, NOON + 62) == {"*": (80, 0)}


def test_call_without_a_cost_counts_in_its_period_alone(make: Make) -> None:
    ledger = make(budget(2, unit=Unit.CALLS, period=Period.MINUTE))
    ledger.reserve_estimate("1", charge(), NOON)
    ledger.cancel_reservation("1", NOON, sent=True)
    assert ledger.reserve_estimate("2", charge(), NOON).admitted
    ledger.settle_reservation("2", charge(), NOON)
    assert not ledger.reserve_estimate("3", charge(), NOON).admitted
    assert ledger.reserve_estimate("3", charge(), NOON + 61).admitted, "it resets if its first call had no cost"


def test_calls_without_a_cost_start_a_period(make: Make) -> None:
    ledger = make(budget(2, unit=Unit.CALLS, period=Period.MINUTE))
    ledger.settle_reservation("1", charge(), NOON)
    for hold in ("2", "3"):
        assert ledger.reserve_estimate(hold, charge(), NOON + 61).admitted
        ledger.cancel_reservation(hold, NOON + 61, sent=True)
    assert stands(ledger, NOON + 61) == {"*": (2, 0)}
    assert not ledger.reserve_estimate("4", charge(), NOON + 62).admitted


def test_call_without_a_cost_counts_at_its_end(make: Make) -> None:
    ledger = make(budget(2, unit=Unit.CALLS, period=Period.MINUTE))
    ledger.settle_reservation("1", charge(), NOON + 59)
    ledger.reserve_estimate("2", charge(), NOON + 59)
    ledger.cancel_reservation("2", NOON + 61, sent=True)
    (status,) = ledger.read_statuses(NOON + 62)
    assert (status.spent, status.reserved, status.since, status.resets_at) == (1, 0, NOON + 61, NOON + 120)


def test_call_without_a_cost_counts_if_its_budget_is_removed(make: Make) -> None:
    calls = budget(2, unit=Unit.CALLS, period=Period.DAY)
    ledger = make(calls)
    ledger.reserve_estimate("1", charge(), NOON)
    ledger.set_budgets([], UTC)
    ledger.cancel_reservation("1", NOON, sent=True)
    ledger.set_budgets([calls], UTC)
    assert stands(ledger) == {"*": (1, 0)}
    assert stands(ledger, NOON + DAY) == {"*": (0, 0)}


def test_total_never_resets(make: Make) -> None:
    ledger = make(budget())
    ledger.settle_reservation("1", charge(100), NOON)
    assert [it.resets_at for it in ledger.read_statuses(NOON)] == [None]
    assert stands(ledger, NOON + 1000 * DAY) == {"*": (100, 0)}


def test_thresholds_are_reported_once_each(make: Make) -> None:
    ledger = make(budget(100, period=Period.DAY, thresholds=(50, 80, 95)))
    told = [
        [threshold.percent for threshold in ledger.settle_reservation(str(turn), charge(amount), NOON).reached]
        for turn, amount in enumerate([49, 1, 10, 35, 5, 100])
    ]
    assert told == [[], [50], [], [80, 95], [], []]
    reached = ledger.settle_reservation("tomorrow", charge(80), NOON + DAY).reached
    assert [(it.percent, it.status.spent) for it in reached] == [(50, 80), (80, 80)]


@pytest.mark.parametrize("key", ["a", None])
def test_threshold_is_reported_again_after_a_raised_limit(key: str | None, make: Make) -> None:
    ledger = make(budget(1000, Scope.AGENT, key))
    assert [step for step, _ in ledger.settle_reservation("1", charge(960), NOON).reached] == [50, 80, 95]
    ledger.set_budgets([budget(10_000, Scope.AGENT, key)], UTC)
    assert [step for step, _ in ledger.settle_reservation("2", charge(8600), NOON).reached] == [50, 80, 95]


def test_limit_can_change(make: Make) -> None:
    ledger = make(budget(100))
    ledger.settle_reservation("1", charge(80), NOON)
    ledger.reserve_estimate("2", charge(20), NOON)
    ledger.set_budgets([budget(300)], UTC)
    assert stands(ledger) == {"*": (80, 20)}
    assert ledger.reserve_estimate("3", charge(200), NOON).admitted
    assert [it.percent for it in ledger.settle_reservation("3", charge(70), NOON).reached] == [50], (
        "it is below half again"
    )
    ledger.set_budgets([budget(10)], UTC)
    assert not ledger.check_estimate(charge(1), NOON).admitted
    ledger.set_budgets([], UTC)
    assert ledger.read_statuses(NOON) == ()
    assert ledger.reserve_estimate("4", charge(10**9), NOON).admitted


def test_budget_removed_and_restored_keeps_its_state(make: Make) -> None:
    ledger = make(budget())
    ledger.settle_reservation("1", charge(50), NOON)
    ledger.reserve_estimate("2", charge(30), NOON)
    ledger.set_budgets([], UTC)
    assert stands(ledger) == {}
    ledger.settle_reservation("3", charge(5), NOON)
    ledger.set_budgets([budget()], UTC)
    assert stands(ledger) == {"*": (50, 30)}
    ledger.settle_reservation("2", charge(20), NOON)
    assert stands(ledger) == {"*": (70, 0)}


def test_hold_may_end_while_its_budget_is_removed(make: Make) -> None:
    ledger = make(budget())
    ledger.reserve_estimate("1", charge(30), NOON)
    ledger.set_budgets([], UTC)
    ledger.cancel_reservation("1", NOON)
    ledger.set_budgets([budget()], UTC)
    assert stands(ledger) == {"*": (0, 0)}


def test_budget_can_be_reset(make: Make) -> None:
    ledger = make(budget())
    ledger.settle_reservation("1", charge(100), NOON)
    ledger.reserve_estimate("2", charge(0), NOON)
    ledger.reset_account(AccountKey(Scope.ALL, "*", Unit.USD, Period.TOTAL))
    assert stands(ledger) == {"*": (0, 0)}
    assert [it.since for it in ledger.read_statuses(NOON)] == [None]


def test_statuses_of_some_scopes_are_read(make: Make) -> None:
    ledger = make(
        budget(), budget(50, Scope.SESSION, None), budget(50, Scope.SESSION, "vip"), budget(9, Scope.RUN, None)
    )
    ledger.settle_reservation("1", charge(session="s", run="r"), NOON)
    assert sorted(stands(ledger)) == ["*", "r", "s", "vip"]
    found = ledger.read_statuses(NOON, [Scope.ALL, Scope.RUN])
    assert sorted((it.key.scope, it.key.key, it.spent) for it in found) == [(Scope.ALL, "*", 10), (Scope.RUN, "r", 10)]


def test_totals_are_grouped_as_requested(make: Make) -> None:
    ledger = make()
    ledger.settle_reservation("1", charge(10, "a", team="red", input_tokens=5, output_tokens=2), NOON)
    ledger.settle_reservation("2", charge(30, "a", team="blue", model="o3", estimated=True), NOON + DAY)
    ledger.settle_reservation("3", charge(None, "b"), NOON)
    by_agent = ledger.compute_totals(["agent"])
    assert [(it.by, it.calls, it.usd, it.weight, it.unpriced, it.estimated) for it in by_agent] == [
        (("a",), 2, 40, 2000, 0, 1),
        (("b",), 1, 0, 1000, 1, 0),
    ]
    assert [(it.by, it.usd) for it in ledger.compute_totals(["team", "model"])] == [
        (("blue", "o3"), 30),
        (("red", "gpt-4o"), 10),
        ((None, "gpt-4o"), 0),
    ]
    (everything,) = ledger.compute_totals([])
    assert (everything.calls, everything.input_tokens, everything.output_tokens) == (3, 5, 2)
    with pytest.raises(ValueError, match="'colour'"):
        ledger.compute_totals(["colour"])
    assert ledger.compute_totals(["agent"]), "the question did no harm"


@pytest.mark.parametrize("threads", [64])
def test_callers_at_a_barrier_get_what_is_left(threads: int, make: Make) -> None:
    ledger = make(budget(100))
    barrier = threading.Barrier(threads)
    admitted: list[str] = []

    def call(name: str) -> None:
        barrier.wait()
        if ledger.reserve_estimate(name, charge(10), NOON).admitted:
            admitted.append(name)
            ledger.settle_reservation(name, charge(10), NOON)

    workers = [threading.Thread(target=call, args=(str(name),)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(admitted) == 10
    assert stands(ledger) == {"*": (100, 0)}


# Against a model.

AGENTS = ["a", "b"]
AMOUNTS = st.integers(0, 60)
_machines = count()


class LedgerMachine(RuleBasedStateMachine):
    """Any order of operations, beside a model that keeps lists and adds them up."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.names = count()
        self.limits: dict[tuple[Scope, str | None], int] = {}
        self.holds: dict[str, tuple[str, int, float]] = {}
        self.spent: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.beyond = 0
        """What calls cost above their estimates."""
        self.lowered = False

    def expiry(self) -> float:
        return self.now + LEASE

    def new_ledger(self, budgets: list[Budget]) -> Ledger:
        return MemoryLedger(budgets, UTC, lease=LEASE)

    def budgets(self) -> list[Budget]:
        return [Budget(scope, key, limit, period=Period.MINUTE) for (scope, key), limit in self.limits.items()]

    @initialize(all_of_them=st.integers(50, 300), each=st.integers(20, 200))
    def begin(self, all_of_them: int, each: int) -> None:
        self.limits = {(Scope.ALL, "*"): all_of_them, (Scope.AGENT, None): each}
        self.ledger = self.new_ledger(self.budgets())

    def model(self, key: str) -> tuple[int, int]:
        minute = self.now // 60
        spent = sum(amount for at, amount in self.spent[key] if at // 60 == minute)
        reserved = sum(
            amount for agent, amount, expires in self.holds.values() if key in (agent, "*") and expires > self.now
        )
        return spent, reserved

    def fits(self, agent: str, amount: int) -> bool:
        limits = {"*": self.limits[Scope.ALL, "*"], agent: self.limits[Scope.AGENT, None]}
        return all(sum(self.model(key)) + amount <= limit for key, limit in limits.items())

    @rule(agent=st.sampled_from(AGENTS), amount=AMOUNTS)
    def reserve(self, agent: str, amount: int) -> None:
        name = str(next(self.names))
        fits = self.fits(agent, amount)
        assert self.ledger.reserve_estimate(name, charge(amount, agent), self.now).admitted is fits
        if fits:
            self.holds[name] = (agent, amount, self.expiry())

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), actual=AMOUNTS)
    def settle(self, data: st.DataObject, actual: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.holds)))
        agent, estimate, expires = self.holds.pop(name)
        self.ledger.settle_reservation(name, charge(actual, agent), self.now)
        # A reservation that has expired, or was made before the last minute, bounds nothing any more.
        self.beyond += actual if expires <= self.now else max(0, actual - estimate)
        for key in (agent, "*"):
            self.spent[key].append((self.now, actual))

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.holds)))
        del self.holds[name]
        self.ledger.cancel_reservation(name, self.now)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        living = sorted(name for name, hold in self.holds.items() if hold[2] > self.now)
        names = data.draw(st.lists(st.sampled_from(living), unique=True)) if living else []
        self.ledger.renew_reservations(names, self.now)
        for name in names:
            agent, amount, _ = self.holds[name]
            self.holds[name] = (agent, amount, self.expiry())

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(10, 300), key=st.sampled_from([(Scope.ALL, "*"), (Scope.AGENT, None)]))
    def change(self, limit: int, key: tuple[Scope, str | None]) -> None:
        self.lowered |= limit < self.limits[key]
        self.limits[key] = limit
        self.ledger.set_budgets(self.budgets(), UTC)

    @rule()
    def reset(self) -> None:
        self.ledger.reset_account(AccountKey(Scope.ALL, "*", Unit.USD, Period.MINUTE))
        self.spent["*"] = []

    @invariant()
    def it_stands_as_in_the_model(self) -> None:
        if self.limits:
            for standing in self.ledger.read_statuses(self.now):
                assert (standing.spent, standing.reserved) == self.model(standing.key.key), standing

    @invariant()
    def nothing_is_overspent(self) -> None:
        if self.limits and not self.lowered:
            for standing in self.ledger.read_statuses(self.now):
                assert standing.spent + standing.reserved <= standing.limit + self.beyond

    def teardown(self) -> None:
        if self.limits:
            self.ledger.close()


class FileLedgerMachine(LedgerMachine):
    """The same with a file."""

    def new_ledger(self, budgets: list[Budget]) -> Ledger:
        self.folder = TemporaryDirectory()
        return SqliteLedger(Path(self.folder.name) / "ledger.db", budgets, UTC, lease=LEASE)

    def teardown(self) -> None:
        super().teardown()
        if self.limits:
            self.folder.cleanup()


class ServerLedgerMachine(LedgerMachine):
    """The same on a server, where the reservations of a process expire together, and not while it runs."""

    server: RedisServer

    def expiry(self) -> float:
        return inf

    def new_ledger(self, budgets: list[Budget]) -> Ledger:
        return TimedLedger(self.server, f"machine-{next(_machines)}", budgets, UTC, 10**6, self.now)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=scale(100), stateful_step_count=40, deadline=None)
TestFileLedgerMachine = FileLedgerMachine.TestCase
TestFileLedgerMachine.settings = settings(max_examples=scale(25), stateful_step_count=30, deadline=None)


class TestServerLedgerMachine(ServerLedgerMachine.TestCase):  # type: ignore[misc]
    """Needs a server."""

    settings = settings(max_examples=scale(25), stateful_step_count=30, deadline=None)

    @pytest.fixture(autouse=True)
    def _server(self, shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        use_set_clock(monkeypatch)
        ServerLedgerMachine.server = shared_server


# When periods end.

ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")]


@given(now=st.floats(0, 4_000_000_000), zone=st.sampled_from(ZONES), period=st.sampled_from([*Period][:-1]))
def test_period_ends_at_a_whole_unit_of_local_time(now: float, zone: ZoneInfo, period: Period) -> None:
    end = ends(period, now, zone)
    assert end is not None
    longest = {Period.MINUTE: 60, Period.HOUR: HOUR, Period.DAY: 25 * HOUR, Period.MONTH: 31 * DAY + HOUR}[period]
    assert now < end <= now + longest
    local = datetime.fromtimestamp(end, zone)
    assert (local.second, local.microsecond) == (0, 0)
    if period in {Period.DAY, Period.MONTH}:
        before = datetime.fromtimestamp(now, zone).date()
        # Midnight, or the first moment after it where the clocks leap over midnight.
        assert local.date() > before
        assert datetime.fromtimestamp(end - 1, zone).date() < local.date()
    if period is Period.MONTH:
        assert local.day == 1
    assert (ends(period, end, zone) or 0) > end


def test_days_are_as_long_as_local_clocks_make_them() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    spring = datetime(2026, 3, 29, 0, 0, tzinfo=berlin).timestamp()
    autumn = datetime(2026, 10, 25, 0, 0, tzinfo=berlin).timestamp()
    assert (ends(Period.DAY, spring, berlin) or 0) - spring == 23 * HOUR
    assert (ends(Period.DAY, autumn, berlin) or 0) - autumn == 25 * HOUR
    assert ends(Period.TOTAL, NOON, berlin) is None
    assert Counter(ends(period, NOON, berlin) is None for period in Period) == {True: 1, False: 4}
