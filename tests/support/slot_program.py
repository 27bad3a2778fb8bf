"""Programs that take slots in a process of their own, which asserts and ends with status 0."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from patience import PATIENCE

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


def start_program(text: str, *, first: str = "", warnings: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a start_program; `first` comes before our import."""
    options = [option for warning in ("error", *warnings) for option in ("-W", warning)]
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *options, "-c", first + PREAMBLE + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish_program(running: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for a program, and return what it wrote to stdout and stderr."""
    try:
        out, err = running.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGABRT)  # faulthandler shows where it and its children hang
        pytest.fail(running.communicate()[1])
    assert running.returncode == status, err
    return out, err


def run_program(text: str, **options: object) -> None:
    """Run a program that is to end well and write nothing."""
    out, err = finish_program(start_program(text, **options))  # type: ignore[arg-type]
    assert (out, err) == ("", "")
