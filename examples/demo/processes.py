"""The demo of a shared engine: three processes in one line, of which one is killed.

    python examples/demo/processes.py

Starts a mock LLM server and a redis-server, and three times `examples/worker.py` under `opentelemetry-instrument` with
LOCO_ENGINE. Shows the holders and waiters of all processes, kills one of them, and compares what the LLM server saw at
once with the capacity. Exit status 1 and a message when anything is not as it should be.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import redis
from child import Child, command, environment, free_port
from errors import DemoError
from rich.console import Console
from server import MockServer, peak
from stage import look_again, perform, shown

WORKERS, CAPACITY, TTL = 3, 3, 1
CALLS = 24
"""Of each worker."""
KILL_AFTER = 8
"""Answers of a worker, after which it is killed."""
TIME_LIMIT = 120.0
PROGRAM = Path(__file__).resolve().parents[1] / "worker.py"


def play(console: Console) -> None:
    """Run the workers, kill one, and report.

    Raises:
        DemoError: something is not as it should be.
        Stopped: somebody wants an end.

    """
    server_program = shutil.which("redis-server") or shutil.which("valkey-server")
    if server_program is None:
        console.print("demo: processes share an engine through redis-server, which is not on the PATH: left out")
        return
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = MockServer(directory)
        stack.callback(server.stop)
        url = _start_redis(server_program, directory, stack)
        while not server.ready:
            look_again()
        console.print(
            f"\n{WORKERS} processes of {shown(PROGRAM)} run under opentelemetry-instrument, with\n"
            f"LOCO_ENGINE={url} LOCO_CAPACITY={CAPACITY} LOCO_ENGINE_TTL={TTL}:",
            soft_wrap=True,
        )
        workers = [_start_worker(number, url, server, directory, stack) for number in range(WORKERS)]
        _wait(lambda: all(_count_answers(worker) >= KILL_AFTER // 2 for worker in workers), workers)
        _show_queue(console, url)
        killed, *others = workers
        _wait(lambda: _count_answers(killed) >= KILL_AFTER, workers)
        killed.kill()
        console.print(f"Process 1 is killed after {_count_answers(killed)} of {CALLS} answers.", soft_wrap=True)
        _wait(lambda: all(worker.status is not None for worker in others), others)
        _check(others, server)
        console.print(
            f"The others have all of their {CALLS} answers each: the slots of the killed process were granted to them "
            f"once it had been silent for {TTL} s.\n"
            f"[bold]The server saw at most {peak(server.served())} calls at once[/], of {WORKERS} processes together; "
            f"LOCO_CAPACITY was {CAPACITY}.",
            soft_wrap=True,
        )


def _start_redis(program: str, directory: Path, stack: ExitStack) -> str:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    child = Child([program, *options], environment(), directory / "redis.txt")
    stack.callback(child.stop)
    ends_at = time.monotonic() + TIME_LIMIT
    with redis.Redis(port=port) as client:
        while child.status is None and time.monotonic() < ends_at:
            try:
                client.ping()
            except redis.ConnectionError:
                look_again()
            else:
                return f"redis://127.0.0.1:{port}"
    raise DemoError(f"{program} did not start:\n{child.output().strip()}")


def _start_worker(number: int, url: str, server: MockServer, directory: Path, stack: ExitStack) -> Child:
    variables = environment(
        LOCO_ENGINE=url,
        LOCO_CAPACITY=str(CAPACITY),
        LOCO_ENGINE_TTL=str(TTL),
        OPENAI_API_KEY="demo",
        OPENAI_BASE_URL=f"http://{server.address}/v1",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
    )
    launcher = command("opentelemetry-instrument")
    child = Child([launcher, sys.executable, PROGRAM], variables, directory / f"worker-{number}.txt")
    stack.callback(child.stop)
    return child


def _count_answers(worker: Child) -> int:
    return worker.output().count(" has answer ")


def _wait(condition: Callable[[], bool], workers: Sequence[Child]) -> None:
    ends_at = time.monotonic() + TIME_LIMIT
    while not condition():
        look_again()
        failed = next((worker for worker in workers if worker.status), None)
        if failed is not None:
            raise DemoError(f"a worker failed, with exit status {failed.status}:\n{failed.output().strip()}")
        if time.monotonic() > ends_at:
            raise DemoError(f"the workers have not ended within {TIME_LIMIT:.0f} s")


def _show_queue(console: Console, url: str) -> None:
    """Print what `loco-otel ps` shows of all processes."""
    arguments = [command("loco-otel"), "ps", "--engine", url]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise DemoError(f"loco-otel ps failed: {done.stderr.strip()}")
    console.print(f"\n[bold]loco-otel ps --engine {url}[/], while they run:\n{done.stdout}", soft_wrap=True)


def _check(others: Sequence[Child], server: MockServer) -> None:
    answers = [_count_answers(worker) for worker in others]
    if answers != [CALLS] * len(others):
        raise DemoError(f"the workers that were not killed have {answers} answers instead of {CALLS} each")
    most = peak(server.served())
    if most > CAPACITY:
        raise DemoError(f"the server saw {most} calls at once, and at most {CAPACITY} were allowed")


if __name__ == "__main__":
    sys.exit(perform(play))
