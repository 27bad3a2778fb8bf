"""The end of a program whose threads wait."""

import pytest
from slot_program import finish_program, start_program


def test_daemon_thread_that_waits_at_exit_is_rejected() -> None:
    out, err = finish_program(
        start_program(
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
    out, err = finish_program(
        start_program(
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
    out, err = finish_program(
        start_program(
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
