"""The connection of one process to the ledger's server, and the thread that reads it.

Any thread writes its operation to the socket itself and waits for the reply, which one thread reads: no caller ever
reads a socket. That thread also opens the connection, sends heartbeats, and after a failure puts right what the server
has of this process: its reservations, and the charges that the server lost.
"""

import json
import logging
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from math import inf
from typing import Any

from loco_otel._budgets.redis.charge_log import ChargeEntry, ChargeLog, MakeOperation, Operation
from loco_otel._budgets.redis.pending import OpenReservation, PendingStep
from loco_otel._budgets.redis.script import SHA, SOURCE
from loco_otel._config.engine_rules import EngineAddress
from loco_otel._engine.redis.connection import Connection
from loco_otel._engine.redis.modes import ModeSwitch
from loco_otel._engine.redis.reader_thread import ReaderThread
from loco_otel._engine.redis.resp import MISSING, ServerError, encode_json, pack_arguments
from loco_otel._engine.redis.wakeable_selector import WakeableSelector
from loco_otel.clock import Clock, monotonic
from loco_otel.errors import LedgerError
from loco_otel.snapshots import EngineMode

_logger = logging.getLogger("loco_otel")
_decode_json = json.JSONDecoder().decode

_BEATS_PER_TTL = 3
_MAX_OPERATIONS = 256
"""Of one step after a failure."""


class _SessionLostError(ConnectionError):
    """The server does not know the session, or misses charges of it."""


class LedgerLink:
    """The connection of one process. Thread-safe.

    Args:
        address: where the server is.
        key: the prefix of all keys.
        ttl: seconds until a silent process has lost its reservations.
        timeout: seconds to wait for an answer.
        name: of the server, for messages.
        list_statements: returns what the process states after each connect.
        clock: monotonic.

    """

    def __init__(
        self,
        address: EngineAddress,
        key: str,
        *,
        ttl: float,
        timeout: float,
        name: str,
        list_statements: Callable[[], Iterable[Operation]],
        clock: Clock = monotonic,
    ) -> None:
        self.lock = threading.RLock()
        self.holds: dict[str, OpenReservation] = {}
        """The open reservations of this process."""
        self.log = ChargeLog()
        self.owner = uuid.uuid4().hex[:12]
        self._address = address
        self._key = key
        self._ttl = ttl
        self._timeout = timeout
        self._name = name
        self._list_statements = list_statements
        self._clock = clock
        self._changed = threading.Condition(self.lock)
        self._switch = ModeSwitch("closed", timeout)
        self._error: Exception | None = None
        self._connection: Connection | None = None
        self._moved: tuple[str, int] | None = None
        self._command_start = pack_arguments("EVALSHA", SHA, 1, key, self.owner)
        self._set_session("")
        self._is_ready = False
        self._is_closing = False
        self._broken: Exception | None = None
        """Why the connection cannot be used, as a caller found out."""
        self._pending: deque[PendingStep] = deque()
        self._orphans: list[str] = []
        """Reservations whose caller did not wait for the answer."""
        self._beat_at = -inf
        self._offset = 0.0
        self._thread: ReaderThread | None = None

    # -- any thread ----------------------------------------------------------------------------------------------

    def call(
        self, make: MakeOperation, entry: ChargeEntry | None = None, on_done: Callable[[Any], None] | None = None
    ) -> Any:
        """Send an operation and return its result; None if the entry turns out to be applied already.

        It is sent again while its time lasts, if the server has not applied it.

        Args:
            make: returns the operation.
            entry: of a charge.
            on_done: called with the result, under the lock, before another thread sees the state without it.

        Raises:
            LedgerError: there is no answer in time, or the server was away before. What happened to the operation is
                put right with the next connection; a charge must be repeated by the caller.

        """
        give_up = self._clock() + self._timeout
        while True:
            pending = self._send(make, entry, on_done, give_up)
            if pending is None:
                return None
            try:
                is_answered = pending.wait(max(0.0, give_up - self._clock()))
            except BaseException:
                self._abandon(pending)
                raise
            if not is_answered:
                self._abandon(pending)
            # An abandoned reservation is dropped, even if it was answered since.
            reply = None if pending.is_abandoned and entry is None else pending.reply
            if reply is not None and reply[0] == "ok":
                if entry is not None:
                    entry.is_returned = True
                return reply[2]
            if self._clock() >= give_up:
                raise self._make_error()

    def _send(
        self, make: MakeOperation, entry: ChargeEntry | None, on_done: Callable[[Any], None] | None, give_up: float
    ) -> PendingStep | None:
        if not self.lock.acquire(timeout=max(0.0, give_up - self._clock())):
            raise self._make_error()
        try:
            self._start()
            while not self._is_ready:
                left = give_up - self._clock()
                if left <= 0 or self._switch.mode is not EngineMode.REMOTE or self._is_closing:
                    raise self._make_error()
                self._changed.wait(left)
            if entry is not None and entry.confirmed_at is not None:
                entry.is_returned = True
                return None
            if entry is not None and entry.number is not None:  # an earlier call did not wait for its answer
                earlier: PendingStep = entry.pending
                return earlier
            now = self._clock()
            number = 0 if entry is None else self.log.number_charge(entry)
            pending = PendingStep(make(now + self._offset, number), entry, on_done, now)
            if entry is not None:
                entry.pending = pending
            self._write(pending)
            return pending
        finally:
            self.lock.release()

    def _write(self, pending: PendingStep) -> None:
        assert self._connection is not None  # noqa: S101 - invariant: ready
        self._pending.append(pending)
        self._beat_at = pending.sent_at + self._ttl / _BEATS_PER_TTL
        try:
            self._connection.send(self._pack_step([pending.operation]))
        except (OSError, ValueError) as error:
            # Half a command may have been written.
            self._is_ready = False
            self._broken = error
            self._wake_reader()

    def _pack_step(self, operations: Sequence[Operation]) -> bytes:
        # As `pack_command` would, without its loop; test_packed_commands.py compares them.
        basis, step = b"%.6f" % (self._clock() + self._offset), encode_json(operations)
        return b"*9\r\n%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            self._command_start,
            self._command_middle,
            len(basis),
            basis,
            len(step),
            step,
        )

    def _set_session(self, session: str) -> None:
        self._command_middle = pack_arguments(session, f"{self._ttl:g}")

    def _abandon(self, pending: PendingStep) -> None:
        with self.lock:
            if not pending.is_finished:
                pending.is_abandoned = True
                self._wake_reader()

    def _make_error(self) -> LedgerError:
        error = self._error
        reason = "it did not answer in time" if error is None else str(error) or type(error).__name__
        return LedgerError(f"the ledger {self._name} can't be used: {reason}")

    @property
    def is_started(self) -> bool:
        """Whether its reader was started."""
        return self._thread is not None

    def start_early(self) -> None:
        """Start to connect before the first operation. It tries again if the system has no thread or socket left."""
        with self.lock, suppress(LedgerError):
            self._start()

    def beat(self) -> None:
        """Renew the reservations."""
        self.call(lambda _now, _number: ("beat",))

    def close(self) -> None:
        """Give up all reservations, and end."""
        if self._thread is not None and not self._is_closing:
            with suppress(LedgerError):
                if self._is_ready:
                    self.call(lambda _now, _number: ("leave",))
        with self.lock:
            self._is_closing = True
            self._changed.notify_all()
            self._wake_reader()
        if self._thread is not None:
            self._thread.join(2 * self._timeout)

    def _start(self) -> None:
        """Start the reader, which the next operation tries again if the system has no thread or socket left."""
        if self._thread is not None or self._is_closing:
            return
        try:
            with ExitStack() as undo:
                self._selector = WakeableSelector()
                undo.callback(self._selector.close)
                thread = ReaderThread(self._run)
                undo.pop_all()
        except (OSError, RuntimeError) as error:
            raise LedgerError(f"the ledger {self._name} can't be used: {error}") from error
        self._thread = thread

    def _wake_reader(self) -> None:
        if self._thread is not None:
            self._selector.wake()

    # -- the reader ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closing:
            started = self._clock()
            try:
                self._raise_if_broken()
                if not self._is_ready:
                    self._synchronize()
                self._read_next()
            except Exception as error:
                self._handle_failure(error, started)
        with self.lock:
            self._fail_pending()
            self._selector.close()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _synchronize(self) -> None:
        """Connect, and make the server's state of this process that which the process has."""
        connection = Connection(self._address, self._timeout, self._moved)
        self._connection = connection
        connection.call("SCRIPT", "LOAD", SOURCE)
        session, last, held = self._step(connection, [("sync",)])[0]
        self._set_session(session)
        with self.lock:
            applied, lost = self.log.resume(last, self._clock() + self._offset)
            for entry in applied:
                self.holds.pop(entry.id, None)
            missing = [self.holds[it].restore for it in self.holds.keys() - set(held)]
            surplus = [it for it in held if it not in self.holds]
            self._orphans.clear()
        for statement in self._list_statements():
            self._step(connection, [statement])
        for start in range(0, len(surplus), _MAX_OPERATIONS):
            self._step(connection, [("drop", surplus[start : start + _MAX_OPERATIONS])])
        for start in range(0, len(missing), _MAX_OPERATIONS):
            self._step(connection, [], missing[start : start + _MAX_OPERATIONS])
        for entry in lost:
            self._replay_charge(connection, entry)
        with self.lock:
            connection.set_blocking(False)
            self._selector.add_socket(connection.socket)
            self._is_ready = True
            self._beat_at = self._clock() + self._ttl / _BEATS_PER_TTL
            is_back = self._switch.record_success()
            self._error = None
            self._changed.notify_all()
        if is_back:
            _logger.warning("the ledger %s answers again", self._name)

    def _replay_charge(self, connection: Connection, entry: ChargeEntry) -> None:
        with self.lock:
            number = self.log.number_charge(entry)
        self._step(connection, [], [lambda now: entry.make(now, number)])
        with self.lock:
            self.log.confirm_charge(entry, self._clock() + self._offset)

    def _step(
        self,
        connection: Connection,
        operations: Sequence[Operation],
        makers: Sequence[Callable[[float], Operation]] = (),
    ) -> Any:
        """Run operations, and those that `makers` return for the server's time, and return their results."""
        while True:
            made = [make(self._clock() + self._offset) for make in makers]
            reply = _decode_json(connection.call_packed(self._pack_step([*operations, *made])))
            self._offset = float(reply[1]) - self._clock()
            if reply[0] == "ok":
                return reply[2:]
            if reply[0] == "sync":
                raise _SessionLostError("the server does not know this process")

    def _read_next(self) -> None:
        """Wait for replies or the time of a heartbeat, and handle what comes.

        Raises:
            TimeoutError: the server has not answered in time.

        """
        connection = self._connection
        assert connection is not None  # noqa: S101 - invariant: synchronized
        with self.lock:
            until = self._plan_wait()
        ready = self._selector.wait(max(0.0, until - self._clock()))
        if connection.socket in ready:
            with self.lock:  # OpenSSL does not allow a read beside a write
                connection.receive()
                while (reply := connection.take_reply()) is not MISSING:
                    self._accept(_decode_json(reply))

    def _plan_wait(self) -> float:
        """Send what is due, and return when something is due next."""
        now = self._clock()
        late_at = self._pending[0].sent_at + self._timeout if self._pending else inf
        if now > late_at:
            raise TimeoutError(f"no answer within {self._timeout:g} s")
        if now >= self._beat_at:
            orphans, self._orphans = self._orphans, []
            drop = [it for it in orphans if it not in self.holds]
            self._write(PendingStep(("drop", drop) if drop else ("beat",), None, None, now))
            late_at = min(late_at, now + self._timeout)
        return min(self._beat_at, late_at)

    def _accept(self, reply: Any) -> None:
        now = self._clock()
        pending = self._pending.popleft()
        at_server = float(reply[1])
        self._offset = at_server - now
        entry = pending.entry
        if reply[0] == "ok":
            if entry is not None:
                self.log.confirm_charge(entry, at_server)
            self.log.prune(at_server)
            if pending.on_done is not None and (entry is not None or not pending.is_abandoned):
                pending.on_done(reply[2])
            elif pending.is_abandoned and pending.operation[0] in {"reserve", "enter"}:
                self._orphans.append(pending.operation[1])
                self._beat_at = now
        pending.reply = reply
        pending.finish()
        is_lost = reply[0] == "stale" and entry is not None and not self.log.withdraw_charge(entry)
        if reply[0] == "sync" or is_lost:
            raise _SessionLostError("the server misses what this process has sent")

    def _handle_failure(self, error: Exception, started: float) -> None:
        now = self._clock()
        kind = error.kind if isinstance(error, ServerError) else type(error).__name__
        with self.lock:
            was_ready = self._is_ready
            since = min((self._pending[0].sent_at if self._pending else now), now if was_ready else started)
            self._broken = None
            self._fail_pending()
            if kind != "NOSCRIPT":
                self._moved = error.moved_to if isinstance(error, ServerError) else None
            is_immediate = kind == "MOVED" or (was_ready and kind in {"NOSCRIPT", _SessionLostError.__name__})
            self._error = error
            is_away = self._switch.record_failure(since, now)
        if is_away:
            _logger.warning(
                "the ledger %s does not answer (%s): LOCO_LEDGER_ON_ERROR decides about calls that have budgets; what "
                "calls take is kept, and written once it answers",
                self._name,
                str(error) or kind,
            )
        delay = self._switch.compute_delay(random.random(), now)  # noqa: S311 - spreads processes, keeps no secret
        if not self._is_closing and not is_immediate:
            self._selector.wait(delay)

    def _fail_pending(self) -> None:
        """Give up the connection, and let no caller write to it or wait for it."""
        self._is_ready = False
        self._disconnect()
        for pending in self._pending:
            pending.finish()
        self._pending.clear()
        self._changed.notify_all()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._selector.remove_socket(self._connection.socket)
            self._connection.close()
            self._connection = None
