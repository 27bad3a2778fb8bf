"""Processes on one server, faults, and the judgement of their own records."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from chaos_worker import RECORD
from patience import PATIENCE

_WORKER = Path(__file__).parent / "chaos_worker.py"


class Hold(NamedTuple):
    """A slot that a process held, by its own record."""

    begin: float
    end: float
    process: int


class ChaosRun:
    """Starts workers, does faults at random until enough was granted, and judges.

    Args:
        folder: for the records.
        url: of the server, or of a proxy before it.
        options: of the workers.

    """

    def __init__(self, folder: Path, url: str, namespace: str, **options: object) -> None:
        defaults = {"capacity": 8, "policy": "load", "ttl": 1.0, "timeout": 0.25, "mode": "closed", "hold": 0.003}
        self.options = {"tasks": 12, **defaults, **options}
        self._folder = folder
        self._command = [sys.executable, str(_WORKER), url, namespace, str(folder)]
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: dict[int, float] = {}
        self._frozen: dict[int, list[tuple[float, float]]] = {}
        self._started = 0
        self.rng = random.Random(5)

    @property
    def ttl(self) -> float:
        return float(str(self.options["ttl"]))

    def start_worker(self) -> None:
        """Start a worker."""
        self._started += 1
        number = self._started
        words = [f"{key}={value}" for key, value in self.options.items()]
        errors = (self._folder / "errors").open("ab")
        self._workers[number] = subprocess.Popen([*self._command, str(number), *words], stderr=errors)

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
        worker = self._workers.pop(number)
        self._ended[number] = time.monotonic()
        worker.kill()
        worker.wait()
        self.start_worker()

    def freeze_worker(self) -> None:
        """Stop a worker for longer than its leases live."""
        number = self.rng.choice(self._list_started())
        begin = time.monotonic()
        self._workers[number].send_signal(signal.SIGSTOP)
        time.sleep(self.ttl * 1.6)
        self._workers[number].send_signal(signal.SIGCONT)
        self._frozen.setdefault(number, []).append((begin, time.monotonic()))

    def run(self, grants: int, faults: Mapping[str, Callable[[], None]], *, workers: int = 4) -> dict[str, int]:
        """Do faults until so many slots were granted, each fault at least once, and return how often each was done."""
        for _ in range(workers):
            self.start_worker()
        self.wait_started()
        done = dict.fromkeys(faults, 0)
        give_up = time.monotonic() + PATIENCE
        while self.count_grants() < grants or not all(done.values()):
            assert time.monotonic() < give_up, f"{self.count_grants()} of {grants} grants, {done}"
            time.sleep(self.rng.uniform(0.2, 0.6))
            fault = min(faults, key=lambda name: (done[name] > 0, self.rng.random()))
            faults[fault]()
            done[fault] += 1
        return done

    def stop(self) -> None:
        """Let all workers end, which they do only once no task waits."""
        (self._folder / "stop").touch()
        for worker in self._workers.values():
            assert worker.wait(PATIENCE) == 0, (self._folder / "errors").read_text()

    def kill_all(self) -> None:
        """End what still runs."""
        for worker in self._workers.values():
            worker.kill()
            worker.wait()

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
        for begin, end in self._frozen.get(hold.process, ()):
            if hold.begin <= begin and hold.end >= end:
                return hold._replace(end=begin + self.ttl / 2)
        return hold


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.01)
