"""Slots before, during and after a fork."""

import os

import pytest
from slot_program import run_program

may_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


THREADS_AND_FORK = ("ignore:This process:DeprecationWarning",)


"""Python warns of forks in programs with threads. Programs do it."""


@may_fork
def test_forked_child_has_all_slots_and_the_parent_its_own() -> None:
    run_program(
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
    run_program(
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
    run_program(
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
    run_program('with slot("a"):\n    pass\n', first="import os\ndel os.fork, os.register_at_fork\n")
