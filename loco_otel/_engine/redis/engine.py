"""The engine of a process that shares its slots with others: the core of this process, and one server that decides."""

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from loco_otel._config.engine_rules import EngineAddress
from loco_otel._core.remote import RemoteChange, RemoteGrant, RemoteState
from loco_otel._core.remote_grants import (
    Lenders,
    PoolReport,
    advance_remote_pool,
    apply_remote_grant,
    confirm_waiting,
    find_loan,
    refuse_immediate,
    reject_overdue,
    switch_pools,
    update_remote_pool,
    update_remote_queue,
)
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import PoolShare, SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Admission
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._engine.redis import messages
from loco_otel._engine.redis.batches import BatchLog, LineState, Operation, Reply
from loco_otel._engine.redis.link import Link
from loco_otel._engine.redis.local_shares import LocalShares
from loco_otel._engine.redis.modes import ModeSwitch
from loco_otel._engine.redis.operations import (
    WAITING,
    is_immediate,
    list_stuck_classes,
    list_tickets,
    make_operation,
    make_submission,
    name_line,
)
from loco_otel._engine.redis.reports import list_learnt, make_pool_report, make_queue_report
from loco_otel._engine.redis.script import make_base_key
from loco_otel._engine.redis.statements import apply_line, differ_from_line, make_statement
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.clock import Clock, monotonic
from loco_otel.events import GrantReason, Snapshot
from loco_otel.snapshots import EngineMode, EngineSnapshot

_logger = logging.getLogger("loco_otel")

_MAX_DURATIONS = 10_000
"""Calls whose duration is kept between two collections."""


class EngineOptions(NamedTuple):
    """How the engine is reached, and what holds while it is away."""

    url: str
    namespace: str = "default"
    ttl: float = 5.0
    timeout: float = 0.25
    on_error: str = "local"


class RedisEngine(InProcessEngine):
    """Keeps every ticket in the core of this process, and lets the shared engine decide which is granted next.

    Thread-safe, as `InProcessEngine` is; its lock is acquired before that of the link, never after.

    Args:
        scheduler: the core; its resources with a statement are shared.
        options: where the engine is.
        statements: limits of the shared resources, and of those that are added later.
        discovered: limits of resources that are created on request; None shares none of them.
        clock: the time.
        timer: whether a thread calls `run_due_actions`.
        admission: checks budgets.

    """

    def __init__(
        self,
        scheduler: Scheduler,
        options: EngineOptions,
        statements: Mapping[str, SharedLimits],
        *,
        discovered: SharedLimits | None = None,
        clock: Clock = monotonic,
        timer: bool = True,
        admission: Admission | None = None,
    ) -> None:
        self._options = options
        self._address = EngineAddress.parse(options.url)
        self._statements = dict(statements)
        self._limits = statements
        self._discovered = discovered
        super().__init__(scheduler, clock=clock, timer=timer, admission=admission)
        scheduler.remote.patience = options.timeout
        scheduler.resources.on_pool_created = self._share_pool
        self._reset_link()

    def _reset_link(self) -> None:
        self._errors: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=_MAX_DURATIONS)
        self._lines: dict[str, LineState] = {}
        self._remove_unused()
        self._stated = dict.fromkeys(self._statements, 0)
        self._reported: dict[str, Operation] = {}
        self._reported_classes: dict[tuple[str, int], tuple[int, str]] = {}
        self._loans: dict[int, Lenders] = {}
        self._shares = LocalShares()
        self._warned: set[str] = set()
        switch = ModeSwitch(self._options.on_error, self._options.timeout)
        self._switch = switch
        self._link = Link(
            self,
            BatchLog(self._options.ttl),
            switch=switch,
            address=self._address,
            names=(make_base_key(self._options.namespace), self.owner),
            timeout=self._options.timeout,
        )
        self._unstated: list[str] = []
        switch_pools(self._core, self._list_shares(), 0.0, is_remote=True)

    def _remove_unused(self) -> None:
        """Stop sharing resources that were created on request and that the core has removed."""
        pools = self._core.resources.pools
        self._statements = {name: it for name, it in self._statements.items() if name in pools}
        self._lines = {name: it for name, it in self._lines.items() if all(one in pools for one in it.resources)}

    def _share_pool(self, pool: SlotPool) -> None:
        """Share a resource that the core adds later, within the operation that requests or adds it."""
        statement = self._limits.get(pool.name, self._discovered)
        if statement is not None:
            self._statements[pool.name] = statement
            self._stated[pool.name] = 0
            self._unstated.append(pool.name)
            mode = self._switch.mode
            pool.set_remote(self._core.remote.is_deciding, self._compute_shares(mode, self._clock())[pool.name])

    # -- the changes of this process -------------------------------------------------------------------------------

    def _collect(self) -> None:
        core = self._core
        if core.remote.is_deciding:
            if core.remote.notes or self._unstated:
                self._send_notes(core.remote)
            # Without a lease there is nothing that could be shared.
            if 0 < core.count_waiting() < len(core.tickets) or self._reported or self._reported_classes:
                self._send_operations(self._report_loans())
            else:
                core.deadlines.idle_check_at = inf
        super()._collect()
        if core.closed and not core.tickets:
            self._link.leave()

    def _send_notes(self, remote: RemoteState) -> None:
        unstated, self._unstated = self._unstated, []
        operations: list[Operation] = [self._make_state(unstated)] if unstated else []
        for note in remote.notes:
            operations.append(make_operation(note))
            if self._loans and note.change is RemoteChange.ENDED:
                self._loans.pop(note.ticket.seq, None)
        remote.notes = []
        self._send_operations(operations)

    def _send_operations(self, operations: Sequence[Operation]) -> None:
        if operations:
            self._link.start()
            self._link.send_operations(operations)

    def _report_loans(self) -> list[Operation]:
        """Return what has changed about leases here that are all blocked or idle."""
        core = self._core
        loan = find_loan(core, self._clock())
        reports: dict[str, Operation] = {}
        if loan is not None:
            ticket, lenders = loan
            self._loans = {ticket.seq: lenders}
            for name, lender in lenders.items():
                count = len(core.resources.pools[name].leases)
                reports[name] = (count, f"{self.owner}-{ticket.seq}", f"{self.owner}-{lender.seq}")
        operations: list[Operation] = [("blocked", name, 0, "", "") for name in self._reported.keys() - reports.keys()]
        operations += [("blocked", name, *it) for name, it in reports.items() if self._reported.get(name) != it]
        self._reported = reports
        stuck = list_stuck_classes(core, self._clock()) if core.has_priorities else {}
        operations += [("capped", *key, 0, "") for key in self._reported_classes.keys() - stuck.keys()]
        operations += [("capped", *key, *it) for key, it in stuck.items() if self._reported_classes.get(key) != it]
        self._reported_classes = stuck
        return operations

    def _recover(self, now: float) -> None:
        is_interrupted = self._busy
        super()._recover(now)
        if is_interrupted:
            self._link.request_sync()

    def after_fork(self) -> None:
        """Start empty in a forked child: it is another process to the engine, with sockets of its own."""
        super().after_fork()
        self._reset_link()

    def leave(self) -> None:
        """Give up all slots at once, at the end of the process."""
        self._link.leave()
        self._link.join(self._options.timeout * 2)

    def restate_limits(self, limits: Mapping[str, SharedLimits], discovered: SharedLimits | None = None) -> None:
        """State other limits; they are in force for all processes until another one states its own.

        To be called before a new resource is added to the core. One that is left out keeps its limits.
        """

        def operation(core: Scheduler, now: float) -> None:
            created = set() if discovered is None else {*core.resources.list_created()}
            statements = {
                name: limits.get(name, discovered if discovered is not None and name in created else it)
                for name, it in self._statements.items()
            }
            changed = {name: it for name, it in statements.items() if self._statements[name] != it}
            self._statements, self._limits, self._discovered = statements, limits, discovered
            for name, statement in changed.items():
                self._stated[name] = 0
                if statement.capacity is not None:
                    update_remote_pool(core, name, PoolReport(statement.capacity, self._link.processes), now)
            if changed:
                self._link.send_operations([self._make_state(changed)])
            if changed and self._switch.mode is EngineMode.LOCAL and not core.remote.is_deciding:
                for name in changed:
                    self._lines.pop(name, None)
                self._switch_to(EngineMode.LOCAL, core, now)

        self._locked(operation)

    # -- the link's host -------------------------------------------------------------------------------------------

    @property
    def has_waiters(self) -> bool:
        """Whether a ticket waits."""
        return self._core.count_waiting() > 0

    def list_reported(self) -> Sequence[str]:
        """Return the shared resources of this process that replies have reported."""
        pools = self._core.resources.pools
        # A copy first, as other threads may add and remove some.
        return [name for name in tuple(self._lines) if name in self._statements and name in pools]

    def begin_sync(self) -> None:
        """Let the engine decide from now on, and prepare to send it all tickets."""

        def operation(core: Scheduler, now: float) -> None:
            if not core.remote.is_deciding:
                self._switch_to(EngineMode.REMOTE, core, now)
            core.remote.notes = []
            self._reported, self._reported_classes = {}, {}
            self._unstated = []
            self._remove_unused()
            statements = [make_statement(it, name, self._stated[name]) for name, it in self._statements.items()]
            learnt = list_learnt(self._lines.values())
            host = f"{socket.gethostname()} {os.getpid()}"
            tickets = list_tickets(core, self._statements, now)
            with self._link.lock:
                self._link.log.start_sync(statements, tickets, host, self._shares.list_spent(now), learnt)
                for ticket in core.tickets.values():
                    if is_immediate(ticket) and ticket.state is State.WAITING:
                        self._link.log.add_operation(make_submission(ticket))

        self._locked(operation)

    def apply_reply(self, reply: Reply, operations: Sequence[Operation], seconds: float) -> None:
        """Apply the grants and the state of the resources that the reply to these operations contains."""
        if self.observed:
            self._durations.append(seconds)
        changed = []
        for line in reply.lines:
            known = self._lines.get(line.name)
            self._lines[line.name] = line
            if known is None or not line.states_same_limits(known):
                self._compare_statement(line)
                changed.append(line.name)
        submitted = [operation[1] for operation in operations if operation[0] == "submit"]
        if operations[-1][0] == "sync":
            submitted = [fields[0] for fields in operations[-1][7] if fields[5] == WAITING]

        def operation_on_core(core: Scheduler, now: float) -> None:
            processes = self._link.processes
            for line in reply.lines:
                name = line.name
                if name in changed or not advance_remote_pool(core, name, line.tick, processes, now):
                    self._update_line(core, line, reply.now, now)
            self._apply_grants(core, reply.granted, now)
            if submitted and core.count_waiting():
                self._confirm(core, submitted, now)

        self._locked(operation_on_core)

    def _update_line(self, core: Scheduler, line: LineState, server_now: int, now: float) -> None:
        name, names, server_start = line.name, line.resources, now - server_now / 1000
        if name in self._statements and name in core.resources.pools:
            update_remote_pool(core, name, make_pool_report(line, self._link.processes, server_start), now)
        elif names not in core.resources.queue_sets:
            return  # only other processes request it
        update_remote_queue(core, names, make_queue_report(line, server_start), now)

    def apply_grants(self, granted: Sequence[Sequence[Any]]) -> None:
        """Apply grants that another process has caused."""
        self._locked(lambda core, now: self._apply_grants(core, granted, now))

    def _apply_grants(self, core: Scheduler, granted: Sequence[Sequence[Any]], now: float) -> None:
        if not core.remote.is_deciding:
            return  # decided before the engine was away; the next sync repeats what holds
        for ticket_id, reason, *facts in granted:
            ticket = self._find_ticket(core, ticket_id)
            if ticket is None:
                continue
            if reason == "full":
                refuse_immediate(core, ticket, now)
                continue
            if reason == "late":
                reject_overdue(core, ticket, now)
                continue
            tick, ticks, all_ticks, score, weight, age, lent = facts
            line = self._lines.get(name_line(ticket.request.resources))
            policy, alpha = (line.policy, float(line.alpha)) if line is not None else ("", 0.0)
            alpha = alpha if policy == "load" else 0.0
            grant = RemoteGrant(
                GrantReason(reason), tick, ticks, all_ticks, float(score), alpha, int(weight), age, policy
            )
            loans = self._loans.pop(ticket.seq, {})
            apply_remote_grant(core, ticket, grant, now, {name: it for name, it in loans.items() if name in lent})

    def _confirm(self, core: Scheduler, submitted: Sequence[str], now: float) -> None:
        tickets = [ticket for it in submitted if (ticket := self._find_ticket(core, it)) is not None]
        excess = 0
        if core.max_waiters is not None:
            unanswered = core.remote.unanswered
            new = sum(it.seq in unanswered for it in tickets)
            excess = core.count_waiting() - (len(unanswered) - new) - core.max_waiters
        for ticket in reversed(tickets):
            excess -= confirm_waiting(core, ticket, excess, now)

    def _find_ticket(self, core: Scheduler, ticket_id: str) -> Ticket | None:
        owner, _, seq = ticket_id.rpartition("-")
        return core.tickets.get(int(seq)) if owner == self.owner else None

    def _compare_statement(self, line: LineState) -> None:
        statement = self._statements.get(line.name)
        if statement is None:
            return
        if not self._stated[line.name]:
            if not differ_from_line(statement, line):
                self._stated[line.name] = line.stated
        elif line.stated > self._stated[line.name] and differ_from_line(statement, line):
            message = messages.describe_difference(line, statement)
            if message not in self._warned:
                self._warned.add(message)
                _logger.warning("%s", message)

    # -- modes -----------------------------------------------------------------------------------------------------

    def change_mode(self, mode: EngineMode, error: Exception | None) -> None:
        """Go on in another mode; the error is why the engine is away."""
        if mode is EngineMode.REMOTE:
            self._shares.clear()
            self._core.remote.is_away = False
            _logger.warning(messages.BACK_MESSAGE)
        else:
            self._locked(lambda core, now: self._switch_to(mode, core, now))
            _logger.warning("%s", messages.describe_absence(mode, error, self._shares.limits))

    def restore_mode(self) -> None:
        """Go on in the mode of before, as a sync has failed."""
        if self._switch.mode is not EngineMode.REMOTE:
            self._locked(lambda core, now: self._switch_to(self._switch.mode, core, now))

    def record_error(self, kind: str) -> None:
        """Count an error."""
        self._errors[kind] += 1

    def _switch_to(self, mode: EngineMode, core: Scheduler, now: float) -> None:
        is_remote = mode in {EngineMode.REMOTE, EngineMode.CLOSED}
        pools = core.resources.pools
        shares = {name: share for name, share in self._compute_shares(mode, now).items() if name in pools}
        switch_pools(core, shares, now, is_remote=is_remote, is_away=mode is EngineMode.CLOSED)

    def _compute_shares(self, mode: EngineMode, now: float) -> dict[str, PoolShare]:
        """Return what may be granted of each resource: of all processes, or here."""
        if mode is EngineMode.LOCAL:
            self._shares.update(self._statements, self._lines, self._link.processes, now)
            return self._shares.list_pools()
        if mode is EngineMode.OPEN:
            return dict.fromkeys(self._statements, PoolShare(inf))
        return self._list_shares()

    def _list_shares(self) -> dict[str, PoolShare]:
        """Return the capacities in force, by resource."""
        limits = {name: apply_line(it, self._lines.get(name)) for name, it in self._statements.items()}
        return {name: PoolShare(it.capacity_max if it.capacity is None else it.capacity) for name, it in limits.items()}

    def _make_state(self, names: Iterable[str]) -> Operation:
        return ("state", [make_statement(self._statements[name], name, self._stated[name]) for name in names])

    def take_call_durations(self) -> Sequence[float]:
        """Return the seconds of each call of the engine since this was called last, at most 10,000."""
        durations, self._durations = self._durations, deque(maxlen=_MAX_DURATIONS)
        return tuple(durations)

    def take_snapshot(self) -> Snapshot:
        """Return the state of all resources and agents of this process, and of the engine."""
        lines = self._lines.values()
        engine = EngineSnapshot(
            self._switch.mode,
            self._link.processes,
            # A limit that adapts may be lowered while more calls are under way.
            tuple(
                (it.name, int(max(0, it.used - it.capacity)))
                for it in lines
                if it.auto is None and len(it.resources) == 1
            ),
            tuple(sorted(self._errors.items())),
        )
        return super().take_snapshot()._replace(engine=engine)
