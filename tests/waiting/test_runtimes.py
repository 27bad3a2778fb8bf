"""Slots in programs that run otherwise than plain threads and loops: uvloop, gevent, trio, forks, signals, the end.

What cannot share a process with the tests is a program of its own, which asserts and ends with status 0.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import trio
import uvloop
from patience import PATIENCE

import loco_otel
from loco_otel import AcquireTimeoutError, Settings, slot
from loco_otel._runtime import process
from loco_otel.events import Bypassed, BypassReason
from loco_otel.testing import RecordingListener

PREAMBLE = """
import asyncio, gc, os, signal, sys, threading
import loco_otel
from loco_otel import AcquireTimeoutError, ShutdownError, slot
from loco_otel._runtime import process

def configured(capacity):
    loco_otel.configure(capacity=capacity)
    return process.get_runtime().engine

def counts():
    standing = loco_otel.snapshot().resources[0]
    return standing.active, standing.waiting

def check_full_capacity():
    gc.collect()
    assert counts() == (0, 0), loco_otel.snapshot()
    capacity = loco_otel.snapshot().resources[0].capacity
    held = [slot(f"agent-{number}", timeout=0) for number in range(capacity)]
    for each in held:
        each.__enter__()
    try:
        slot("one too many", timeout=0).__enter__()
    except AcquireTimeoutError:
        pass
    else:
        raise AssertionError("more slots than there are")
    for each in held:
        each.__exit__(None, None, None)
    assert counts() == (0, 0)

def say_when_parked(engine):
    park = engine.park_ticket
    def say(*args):
        park(*args)
        print("parked", flush=True)
    engine.park_ticket = say

class Holder:
    '''Holds a slot in a thread.'''
    def __init__(self, agent="holder", **options):
        self.inside, self.leave = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.hold, args=(agent,), **options)
        self.thread.start()
    def hold(self, agent):
        with slot(agent):
            self.inside.set()
            self.leave.wait()
    def end(self):
        self.leave.set()
        self.thread.join()
"""


def program(text: str, *, first: str = "", warnings: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a program; `first` comes before our import."""
    options = [option for warning in ("error", *warnings) for option in ("-W", warning)]
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *options, "-c", first + PREAMBLE + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(running: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for a program, and return what it wrote to stdout and stderr."""
    try:
        out, err = running.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGABRT)  # faulthandler shows where it and its children hang
        pytest.fail(running.communicate()[1])
    assert running.returncode == status, err
    return out, err


def runs_well(text: str, **options: object) -> None:
    out, err = finish(program(text, **options))  # type: ignore[arg-type]
    assert (out, err) == ("", "")


# -- loops -----------------------------------------------------------------------------------------------------------


def test_uvloop_schedules_like_asyncio() -> None:
    process.replace_runtime(Settings().changed(capacity=3))
    inside, seen = 0, set()

    async def call(number: int) -> None:
        nonlocal inside
        async with slot(f"agent-{number % 4}"):
            inside += 1
            seen.add(inside)
            await asyncio.sleep(0)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(call(number) for number in range(100)))
        async with slot("a"), slot("b"), slot("c"):
            with pytest.raises(AcquireTimeoutError):
                await asyncio.create_task(in_time())

    async def in_time() -> None:
        async with slot("late", timeout=0):
            pytest.fail("nothing is free")

    uvloop.run(main())
    assert seen == {1, 2, 3}
    (standing,) = loco_otel.snapshot().resources
    assert (standing.active, standing.waiting) == (0, 0)


def test_trio_bypass_is_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    runtime = process.replace_runtime(Settings().changed(capacity=1))
    assert runtime is not None
    listener = RecordingListener()
    runtime.engine.add_listener(listener)
    all_inside = trio.Event()
    inside = 0

    async def call() -> None:
        nonlocal inside
        async with slot("a") as held:
            assert held.waited_ticks == 0
            held.touch()
            inside += 1
            if inside == 3:
                all_inside.set()
            await all_inside.wait()

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call)

    with caplog.at_level(logging.WARNING, "loco_otel"):
        trio.run(main)
    assert [event.reason for event in listener.of(Bypassed)] == [BypassReason.UNSUPPORTED_RUNTIME] * 3
    assert len(listener.events) == 3
    (record,) = caplog.records
    assert record.getMessage() == (
        "an event loop that is not asyncio's (trio): the call is sent unscheduled (logged once)"
    )


# -- gevent ----------------------------------------------------------------------------------------------------------

GREENLETS = """
import gevent, gevent.event
engine = configured(1)

# As in every server, something else always runs: gevent reports a deadlock where all greenlets wait for a real thread,
# as they may here for the timer's.
def tick():
    while True:
        gevent.sleep(0.01)
gevent.spawn(tick)

# Contended: one at a time, though others run in the midst of each body.
inside, seen = [0], set()
def call(number):
    for _ in range(5):
        with slot(f"agent-{number % 3}"):
            inside[0] += 1
            seen.add(inside[0])
            gevent.sleep(0)
            inside[0] -= 1
gevent.joinall([gevent.spawn(call, number) for number in range(20)], raise_error=True)
assert seen == {1}, seen
check_full_capacity()

# While one waits, others run: the holder leaves when a third one says so, and that one starts last.
leave = gevent.event.Event()
held = gevent.event.Event()
def hold():
    with slot("holder"):
        held.set()
        leave.wait()
def wait():
    with slot("waiter"):
        pass
holder = gevent.spawn(hold)
held.wait()
waiter = gevent.spawn(wait)
while counts() != (1, 1):
    gevent.sleep(0)
assert not waiter.ready()
gevent.spawn(leave.set)
gevent.joinall([holder, waiter], raise_error=True)
check_full_capacity()

# A deadline ends a wait, while others run.
leave.clear()
held.clear()
holder = gevent.spawn(hold)
held.wait()
def wait_in_vain():
    try:
        with slot("waiter", timeout=0.05):
            raise AssertionError("nothing is free")
    except AcquireTimeoutError:
        return "timed out"
waiter = gevent.spawn(wait_in_vain)
turns = 0
while not waiter.ready():
    turns += 1
    gevent.sleep(0)
assert waiter.get() == "timed out"
assert turns > 1
assert counts() == (1, 0)

# A killed greenlet leaves the line.
waiter = gevent.spawn(wait)
while counts() != (1, 1):
    gevent.sleep(0)
waiter.kill()
assert counts() == (1, 0)
leave.set()
holder.join()
check_full_capacity()

# A second slot within the first shares it; the greenlets of one thread are not taken for each other.
def nest():
    with slot("a"):
        with slot("a"):
            pass
gevent.joinall([gevent.spawn(nest) for _ in range(5)], raise_error=True)
check_full_capacity()

# Real threads stand in the same line.
holder = gevent.spawn(hold)
held.clear(), leave.clear()
held.wait()
in_thread = gevent.get_hub().threadpool.spawn(wait)
while counts() != (1, 1):
    gevent.sleep(0)
leave.set()
in_thread.get()
holder.join()
check_full_capacity()
"""


def test_gevent_patched_before_our_import_works() -> None:
    runs_well(GREENLETS, first="from gevent import monkey\nmonkey.patch_all()\n")


@pytest.mark.parametrize("used", [False, True], ids=["imported", "used"])
def test_gevent_patched_after_our_import_works(used: bool) -> None:
    # As under `opentelemetry-instrument`, which imports us before the program begins.
    late = 'with slot("early"):\n    pass\n' if used else ""
    late += "from gevent import monkey\nmonkey.patch_all()\n"
    runs_well(late + GREENLETS, warnings=("ignore:Monkey-patching",))


# -- forks -----------------------------------------------------------------------------------------------------------

may_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
THREADS_AND_FORK = ("ignore:This process:DeprecationWarning",)
"""Python warns of forks in programs with threads. Programs do it."""


@may_fork
def test_forked_child_has_all_slots_and_the_parent_its_own() -> None:
    runs_well(
        """
        engine = configured(2)
        other = Holder()
        other.inside.wait()
        with slot("main"):
            waiters = [Holder("waiter") for _ in range(2)]
            while counts() != (2, 2):
                pass
            child = os.fork()
            if not child:
                check_full_capacity()
                with slot("a"), slot("b"):
                    waiter = []
                    def wait():
                        try:
                            slot("late", timeout=0.01).__enter__()  # the timer runs again
                        except AcquireTimeoutError:
                            waiter.append("timed out")
                    thread = threading.Thread(target=wait)
                    thread.start()
                    thread.join()
                    assert waiter == ["timed out"]
                check_full_capacity()
            else:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert counts() == (2, 2)
        if not child:
            check_full_capacity()  # the parent's slot was none of the child's to give back
            os._exit(0)
        other.end()
        for waiter in waiters:
            waiter.end()
        check_full_capacity()
        """,
        warnings=THREADS_AND_FORK,
    )


@may_fork
def test_workers_forked_from_a_running_program_have_own_limits() -> None:
    runs_well(
        """
        engine = configured(2)
        with slot("preloaded"):
            pass

        inside, most, lock = 0, 0, threading.Lock()

        def body():
            global inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

        def in_thread():
            for _ in range(100):
                with slot("a"):
                    body()

        async def in_task():
            for _ in range(100):
                async with slot("b", timeout=30):
                    await asyncio.sleep(0)
                    body()

        async def in_loop():
            await asyncio.gather(*(in_task() for _ in range(3)))

        def serve():
            threads = [threading.Thread(target=in_thread) for _ in range(3)]
            for thread in threads:
                thread.start()
            asyncio.run(in_loop())
            for thread in threads:
                thread.join()
            assert most <= 2
            check_full_capacity()

        workers = []
        for _ in range(4):
            worker = os.fork()
            if not worker:
                try:
                    serve()
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                os._exit(0)
            workers.append(worker)
        for worker in workers:
            assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
        serve()
        """,
        warnings=THREADS_AND_FORK,
    )


@may_fork
def test_fork_during_our_start_leaves_the_child_no_lock() -> None:
    # Here the parent's main thread holds the locks that another thread would have.
    runs_well(
        """
        def use_in_a_child():
            child = os.fork()
            if not child:
                with slot("a"):
                    os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        with process._creation_lock:
            use_in_a_child()
        with process.get_runtime()._attach_lock:
            use_in_a_child()
        """,
        warnings=THREADS_AND_FORK,
    )


def test_system_without_fork_is_supported() -> None:
    runs_well('with slot("a"):\n    pass\n', first="import os\ndel os.fork, os.register_at_fork\n")


# -- signals ---------------------------------------------------------------------------------------------------------

CTRL_C = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""As in a terminal, however the tests were started."""


def interrupt(running: subprocess.Popen[str]) -> None:
    """Send the signal once the program waits."""
    assert running.stdout is not None
    line = running.stdout.readline()
    if line != "parked\n":
        running.kill()
        pytest.fail(line + running.communicate()[1])
    running.send_signal(signal.SIGINT)


def test_ctrl_c_ends_a_wait_in_the_main_thread() -> None:
    running = program(
        CTRL_C
        + textwrap.dedent(
            """
            engine = configured(1)
            holder = Holder()
            holder.inside.wait()
            say_when_parked(engine)
            try:
                with slot("main"):
                    raise AssertionError("nothing is free")
            except KeyboardInterrupt:
                assert counts() == (1, 0)
            holder.end()
            check_full_capacity()
            """
        )
    )
    interrupt(running)
    assert finish(running) == ("", "")


def test_ctrl_c_ends_a_wait_in_asyncio_run() -> None:
    running = program(
        CTRL_C
        + textwrap.dedent(
            """
            engine = configured(1)
            holder = Holder()
            holder.inside.wait()
            say_when_parked(engine)

            async def main():
                async with slot("main"):
                    raise AssertionError("nothing is free")

            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                assert counts() == (1, 0)
            holder.end()
            check_full_capacity()
            """
        )
    )
    interrupt(running)
    assert finish(running) == ("", "")


@pytest.mark.parametrize("how", ["with", "asyncio.run"])
def test_ctrl_c_that_is_not_caught_ends_the_program(how: str) -> None:
    enter = {
        "with": 'with slot("main"):\n    pass\n',
        "asyncio.run": 'async def main():\n    async with slot("main"):\n        pass\nasyncio.run(main())\n',
    }
    running = program(
        CTRL_C
        + "engine = configured(1)\nholder = Holder(daemon=True)\nholder.inside.wait()\nsay_when_parked(engine)\n"
        + enter[how]
    )
    interrupt(running)
    out, err = finish(running, -signal.SIGINT)
    assert out == ""
    assert err.endswith("\nKeyboardInterrupt\n")
    assert "Exception ignored" not in err
    assert "Fatal" not in err


def test_ctrl_c_at_any_moment_loses_no_slot() -> None:
    # Where it strikes is chance: in the midst of an operation, of a wake, of a finaliser. The tests of the
    # engine's interruption go through these places one by one.
    runs_well(
        CTRL_C
        + textwrap.dedent(
            """
            engine = configured(1)
            stop, ready = threading.Event(), threading.Semaphore(0)
            rounds = [0, 0]

            def compete(number):
                while not stop.is_set():
                    with slot("other"):
                        rounds[number] += 1

            def strike():
                while ready.acquire() and not stop.is_set():
                    os.kill(os.getpid(), signal.SIGINT)

            swallowed = []
            sys.unraisablehook = swallowed.append  # in a finaliser it goes no further
            threads = [threading.Thread(target=compete, args=(number,)) for number in range(2)]
            threads.append(threading.Thread(target=strike))
            for thread in threads:
                thread.start()
            for _ in range(100):
                swallowed.clear()
                try:
                    ready.release()
                    while not swallowed:
                        with slot("main"):
                            pass
                except KeyboardInterrupt:
                    pass
            stop.set()
            ready.release()
            for thread in threads:
                thread.join()
            assert min(rounds) > 0
            check_full_capacity()
            """
        )
    )


# -- the end ---------------------------------------------------------------------------------------------------------


def test_daemon_thread_that_waits_at_exit_is_rejected() -> None:
    out, err = finish(
        program(
            """
            engine = configured(1)
            holder = Holder(daemon=True)
            holder.inside.wait()
            say_when_parked(engine)

            def wait():
                try:
                    with slot("daemon"):
                        print("granted")
                except ShutdownError:
                    os.write(1, b"turned away\\n")
                    told.set()

            # Called after ours, which was registered later: so the thread can tell before it is cut off.
            import atexit
            told = threading.Event()
            atexit.unregister(process._shut_down_at_exit)
            atexit.register(told.wait, 30)
            atexit.register(process._shut_down_at_exit)
            threading.Thread(target=wait, daemon=True).start()
            while counts() != (1, 1):
                pass
            """
        )
    )
    assert err == ""
    assert sorted(out.split("\n")) == ["", "parked", "turned away"]


@pytest.mark.parametrize("many", [1, 20])
def test_exit_with_daemon_threads_neither_hangs_nor_warns(many: int) -> None:
    out, err = finish(
        program(
            f"""
            from contextlib import suppress

            class RejectedAtExit(Holder):
                def hold(self, agent):
                    with suppress(ShutdownError):  # some threads still run when the interpreter ends
                        super().hold(agent)

            engine = configured(1)
            threads = [RejectedAtExit(daemon=True) for _ in range({many} + 1)]
            while counts() != (1, {many}):
                pass
            threads[0].keep = slot("never left")
            """
        )
    )
    assert out == ""
    assert err == ""


def test_loop_waiting_in_a_daemon_thread_does_not_delay_exit() -> None:
    out, err = finish(
        program(
            """
            engine = configured(1)
            holder = Holder(daemon=True)
            holder.inside.wait()

            async def main():
                async with slot("daemon"):
                    print("granted")

            def run():
                try:
                    asyncio.run(main())
                except ShutdownError:
                    pass

            threading.Thread(target=run, daemon=True).start()
            while counts() != (1, 1):
                pass
            """
        )
    )
    assert out == ""
    assert err == ""
