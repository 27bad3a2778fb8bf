"""Processes on one server, faults, and the judgement of their own records."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import NamedTuple

import redis
from chaos_worker import RECORD
from effort import EFFORT
from patience import PATIENCE
from redis_server import RedisServer
from shared_engine import acquire, make_engine, wait_until

_WORKER = Path(__file__).parent / "chaos_worker.py"


class Hold(NamedTuple):
    """A slot that a process held, by its own record."""

    begin: float
    end: float
    process: int


class Freeze(NamedTuple):
    """A time in which a process certainly did nothing, and the last moment at which it certainly went on."""

    before: float
    begin: float
    end: float


class ChaosRun:
    """Starts workers, does faults at random until enough was granted, and judges.

    Args:
        folder: for the records.
        url: of the server, or of a proxy before it.
        options: of the workers.

    """

    def __init__(self, folder: Path, url: str, namespace: str, **options: object) -> None:
        defaults = {"capacity": 8, "policy": "load", "ttl": 2.0, "timeout": 1.0, "mode": "closed", "hold": 0.003}
        self.options = {"tasks": 12, **defaults, **options}
        self._folder = folder
        self._workers: dict[int, int] = {}
        self._ended: dict[int, float] = {}
        self._frozen: dict[int, list[Freeze]] = {}
        self._started = 0
        self.rng = random.Random(5)
        words = [f"{key}={value}" for key, value in self.options.items()]
        with (folder / "errors").open("wb") as errors:
            self._nursery = subprocess.Popen(
                [sys.executable, str(_WORKER), url, namespace, str(folder), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    @property
    def ttl(self) -> float:
        return float(str(self.options["ttl"]))

    def start_worker(self) -> None:
        """Start a worker."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._started += 1
        self._nursery.stdin.write(f"{self._started}\n")
        self._nursery.stdin.flush()
        self._workers[self._started] = int(self._nursery.stdout.readline())

    def wait_started(self) -> None:
        """Wait until each worker has had a slot, so that none is newer than what follows."""
        wait_until(lambda: len(self._list_started()) == len(self._workers))

    def _list_started(self) -> list[int]:
        paths = {number: self._folder / f"{number}.log" for number in self._workers}
        return [number for number, path in paths.items() if path.exists() and path.stat().st_size > 0]

    def count_grants(self) -> int:
        """Return the number of grants so far."""
        return sum(path.stat().st_size for path in self._folder.glob("*.log")) // (2 * RECORD.size)

    def kill_worker(self) -> None:
        """End a worker as kill -9 does, and start another."""
        wait_until(lambda: bool(self._list_started()))
        number = self.rng.choice(self._list_started())
        self._ended[number] = time.monotonic()
        os.kill(self._workers.pop(number), signal.SIGKILL)
        self.start_worker()

    def freeze_worker(self) -> None:
        """Stop a worker for longer than its leases live."""
        number = self.rng.choice(self._list_started())
        before = time.monotonic()
        os.kill(self._workers[number], signal.SIGSTOP)
        begin = time.monotonic()
        time.sleep(self.ttl * 1.6)  # the fault itself
        end = time.monotonic()
        os.kill(self._workers[number], signal.SIGCONT)
        self._frozen.setdefault(number, []).append(Freeze(before, begin, end))

    def run(self, grants: int, faults: Mapping[str, Callable[[], None]], *, workers: int = 4) -> dict[str, int]:
        """Do faults until `grants` slots were granted, each at least once, and return how often each was done."""
        for _ in range(workers):
            self.start_worker()
        self.wait_started()
        done = dict.fromkeys(faults, 0)
        give_up = time.monotonic() + PATIENCE * max(1.0, EFFORT)
        while self.count_grants() < grants or not all(done.values()):
            assert time.monotonic() < give_up, f"{self.count_grants()} of {grants} grants, {done}"
            time.sleep(self.rng.uniform(0.3, 1.0))
            fault = min(faults, key=lambda name: (done[name] > 0, self.rng.random()))
            faults[fault]()
            done[fault] += 1
        return done

    def stop(self) -> None:
        """Let all workers end, which they do only once no task waits."""
        (self._folder / "stop").touch()
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        assert self._nursery.wait(PATIENCE) == 0, (self._folder / "errors").read_text()

    def kill_all(self) -> None:
        """End what still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self._nursery.pid, signal.SIGKILL)
        self._nursery.wait()
        for stream in (self._nursery.stdin, self._nursery.stdout):
            assert stream is not None
            stream.close()

    def find_peak(self) -> int:
        """Return the most slots that were held at once, lost leases of frozen processes left out."""
        changes = []
        for hold in self._read_holds():
            changes += [(hold.begin, 1), (hold.end, -1)]
        held = peak = 0
        for _, change in sorted(changes):
            held += change
            peak = max(peak, held)
        return peak

    def find_excess(self, per_minute: float) -> float:
        """Return the most grants of any time that are above a full bucket and what has flowed in since."""
        least, excess = inf, -inf
        for number, begin in enumerate(sorted(hold.begin for hold in self._read_holds())):
            inflow = begin * per_minute / 60
            least = min(least, number - inflow)
            excess = max(excess, number + 1 - inflow - least - per_minute)
        return excess

    def _read_holds(self) -> list[Hold]:
        holds = []
        for path in self._folder.glob("*.log"):
            number, open_holds = int(path.stem), {}
            data = path.read_bytes()
            for kind, seq, at in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
                if kind == b"G":
                    open_holds[seq] = at
                else:
                    holds.append(Hold(open_holds.pop(seq), at, number))
            last = self._ended.get(number, time.monotonic())
            holds += [Hold(at, last, number) for at in open_holds.values()]
        return [self._cut_lost(hold) for hold in holds]

    def _cut_lost(self, hold: Hold) -> Hold:
        """Return what of a hold had a lease: a frozen process renews for the last time a third before it stops."""
        for freeze in self._frozen.get(hold.process, ()):
            if hold.begin <= freeze.begin and hold.end >= freeze.end:
                return hold._replace(end=freeze.before + self.ttl / 2)
        return hold


def judge(chaos: ChaosRun, server: RedisServer, namespace: str) -> None:
    """End all, and check that nobody waits for ever, no slot was held twice, and nothing is left."""
    chaos.stop()
    assert chaos.find_peak() <= int(str(chaos.options["capacity"]))
    give_up = time.monotonic() + PATIENCE
    with redis.Redis(port=server.port, decode_responses=True) as client:
        # But for the last numbers of killed processes, which expire.
        while left := [key for key in client.keys(f"loco:{{{namespace}}}:*") if ":number:" not in key]:
            # Whoever comes buries what was killed; here nobody else comes.
            assert time.monotonic() < give_up, left
            last = make_engine(server.url, namespace, timeout=10.0, ttl=chaos.ttl)
            last.release(acquire(last))
            last.close()
            last.leave()
            time.sleep(chaos.ttl / 4)
