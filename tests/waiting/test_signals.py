"""Ctrl-C during a wait, in a body and at any moment."""

import signal
import subprocess
import textwrap

import pytest
from slot_program import finish_program, run_program, start_program

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
    running = start_program(
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
    assert finish_program(running) == ("", "")


def test_ctrl_c_ends_a_wait_in_asyncio_run() -> None:
    running = start_program(
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
    assert finish_program(running) == ("", "")


@pytest.mark.parametrize("how", ["with", "asyncio.run"])
def test_ctrl_c_that_is_not_caught_ends_the_program(how: str) -> None:
    enter = {
        "with": 'with slot("main"):\n    pass\n',
        "asyncio.run": 'async def main():\n    async with slot("main"):\n        pass\nasyncio.run(main())\n',
    }
    running = start_program(
        CTRL_C
        + "engine = configured(1)\nholder = Holder(daemon=True)\nholder.inside.wait()\nsay_when_parked(engine)\n"
        + enter[how]
    )
    interrupt(running)
    out, err = finish_program(running, -signal.SIGINT)
    assert out == ""
    assert err.endswith("\nKeyboardInterrupt\n")
    assert "Exception ignored" not in err
    assert "Fatal" not in err


def test_ctrl_c_at_any_moment_loses_no_slot() -> None:
    # Where it strikes is chance: in the midst of an operation, of a wake, of a finaliser. The tests of the
    # engine's interruption go through these places one by one.
    run_program(
        CTRL_C
        + textwrap.dedent(
            """
            import logging
            logging.getLogger("loco_otel").setLevel(logging.ERROR)  # a recovery from an interrupt is a WARNING
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
