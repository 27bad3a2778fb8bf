"""The examples, run as a user runs them."""

import ast
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from uuid import uuid4

import pytest
from patience import PATIENCE

EXAMPLES = Path(__file__).parent.parent / "examples"
RUN = EXAMPLES / "demo" / "run.py"
PROCESSES = EXAMPLES / "demo" / "processes.py"

FEW_CALLS = """
import threading, openai
client = openai.OpenAI()
def ask(number):
    client.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": f"{number}?"}])
threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


class Marked:
    """Starts processes and finds all that came of them by a variable in their environment."""

    def __init__(self) -> None:
        self._mark = uuid4().hex

    def start(self, *arguments: str | Path, output: int = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **variables, "MARK": self._mark},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str | Path, **variables: str) -> tuple[int, str]:
        with self.start(*arguments, **variables) as process:
            output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    def left(self) -> list[int]:
        mark = f"MARK={self._mark}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:  # ended meanwhile, or somebody else's
                continue
        return found


@pytest.fixture
def marked() -> Iterator[Marked]:
    """Check that no process stays behind."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to look for processes")
    marked = Marked()
    yield marked
    left = marked.left()
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left


class Row(NamedTuple):
    calls: int
    refused: int
    p50: float
    p95: float
    longest: float
    tokens_in: int
    tokens_out: int
    usd: float


def rows(output: str) -> dict[str, Row]:
    seconds = r"([\d.]+) s +"
    pattern = rf"^ *(\w+) +(\d+) +(\d+) +{seconds * 3}~?(\d+) +~?(\d+) +([\d.]+)"
    found = re.findall(pattern, output, re.MULTILINE)
    kinds = (int, int, float, float, float, int, int, float)
    return {agent: Row(*(kind(cell) for kind, cell in zip(kinds, cells, strict=True))) for agent, *cells in found}


def test_demo_runs(marked: Marked) -> None:
    # What a user's shell may have set does not change the demo.
    status, output = marked.run(RUN, LOCO_ENABLED="false", OTEL_SDK_DISABLED="true", HTTP_PROXY="http://127.0.0.1:9")
    assert status == 0, output
    table = rows(output)
    assert {agent: row.calls for agent, row in table.items()} == {
        "analyst": 6,
        "crawler": 36,
        "critic": 6,
        "writer": 6,
        "all": 54,
    }
    every = table.pop("all")
    assert every.refused == sum(row.refused for row in table.values()) == 4
    assert every.usd == pytest.approx(sum(row.usd for row in table.values()), abs=0.0002)
    for row in table.values():
        assert 0 < row.p50 <= row.p95 <= row.longest <= every.longest
        assert row.tokens_in > 0
        assert row.tokens_out > 0
    assert table["crawler"].usd > every.usd / 2
    assert "The server saw at most 2 calls at once; LOCO_CAPACITY was 2." in output
    assert "4 calls were refused with 429; each gave up its slot, waited, and came through." in output
    for sdk in ("openai", "anthropic"):
        assert re.search(rf"http://127.0.0.1:\d+/metrics says: the calls of {sdk} [\d.]+ are scheduled", output)
    assert re.search(r" s   holds: \w+ \d.*   waits: \w+ \d.*   calls done: \d+", output)
    assert "export OPENAI_API_KEY=" in output
    assert "curl -s http://localhost:9464/metrics" in output
    assert "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_ENDPOINT=" in output
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", output)
    live, written, imported = output.splitlines()[-3:]
    assert re.fullmatch(r"Live view, while a program runs with those settings: \S+/loco-otel top", live)
    assert re.fullmatch(
        r"Dashboards that \S+/loco-otel dashboards push --url URL would import: "
        "Agent, Overview, Scheduling, Spend and budgets",
        imported,
    )
    report = Path(written.removeprefix("Report of this run: ")).read_text()
    assert f"<td>{every.usd:.4f}</td>" in report
    assert f"<td>{every.tokens_in:,}</td><td>{every.tokens_out:,}</td>" in report
    assert "<b>2</b><p>in slots at once, at most</p>" in report


def test_demo_runs_on_a_terminal(marked: Marked, tmp_path: Path) -> None:
    program = tmp_path / "few_calls.py"
    program.write_text(FEW_CALLS)
    ours, theirs = pty.openpty()
    output = b""
    with marked.start(RUN, program, output=theirs, TERM="xterm", COLUMNS="100") as process:
        os.close(theirs)
        while True:
            try:
                output += os.read(ours, 65536)
            except OSError:  # Linux's error when the other end is closed
                break
    os.close(ours)
    shown = output.decode()
    assert process.returncode == 0, shown
    assert "■" in shown
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", shown)
    assert plain != shown
    assert rows(plain)["few_calls"].calls == 6  # by the service's name, as the program names no agent
    assert "The server saw at most 2 calls at once" in plain


def test_demo_of_processes_shares_slots_and_survives_a_kill(marked: Marked) -> None:
    status, output = marked.run(PROCESSES, LOCO_ENGINE="redis://127.0.0.1:1", LOCO_ENABLED="false")
    assert status == 0, output
    assert re.search(r"\nllm_api: \d of 3 slots held, \d+ waiting, 3 processes", output)
    assert re.search(r"\nProcess 1 is killed after \d+ of 24 answers\.\n", output)
    assert "The others have all of their 24 answers each" in output
    assert "The server saw at most 3 calls at once, of 3 processes together; LOCO_CAPACITY was 3." in output


def test_demo_of_processes_needs_a_redis_server(marked: Marked) -> None:
    status, output = marked.run(PROCESSES, PATH="/nowhere")
    assert status == 0
    assert output == "demo: processes share an engine through redis-server, which is not on the PATH: left out\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_can_be_stopped(marked: Marked, number: signal.Signals) -> None:
    with marked.start(RUN) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "are scheduled" in line:
                break
        assert len(marked.left()) >= 3  # itself, the server and the program: the test can see them
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 128 + number, rest
    assert rest.endswith("demo: stopped\n")


def test_demo_of_a_failing_program_reports_it(marked: Marked, tmp_path: Path) -> None:
    program = tmp_path / "failing.py"
    program.write_text(f"{FEW_CALLS}\nraise SystemExit('nothing to report')")
    status, output = marked.run(RUN, program)
    assert status == 1
    assert "  nothing to report\n" in output
    assert output.endswith("demo: the program failed, with exit status 1\n")


def test_demo_of_a_program_above_capacity_reports_it(marked: Marked, tmp_path: Path) -> None:
    program = tmp_path / "greedy.py"
    program.write_text(f"import loco_otel\nloco_otel.configure(capacity=5)\n{FEW_CALLS}")
    status, output = marked.run(RUN, program)
    assert status == 1
    assert re.search(r"\ndemo: the server saw [3-5] calls at once, and at most 2 were allowed\n$", output)


def test_demo_without_its_program_reports_it(marked: Marked) -> None:
    assert marked.run(RUN, "missing.py") == (1, "demo: there is no program missing.py\n")


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """Make the demo's modules importable, as they are for `run.py`."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RUN.parent)
        import report

        yield report
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in {str(path) for path in RUN.parent.glob("*.py")}:
            del sys.modules[name]


def served(demo: ModuleType, *times: tuple[float, float], status: int = 200) -> list[object]:
    return [demo.Served(start, end, status) for start, end in times]


def test_peak_counts_calls_at_once(demo: ModuleType) -> None:
    assert demo.peak([]) == 0
    assert demo.peak(served(demo, (0, 1), (1, 2), (2, 3))) == 1
    assert demo.peak(served(demo, (0, 1), (0.5, 2), (0.6, 0.8), (3, 4))) == 3
    late = served(demo, (0, 1.05), (1, 2.05), (2, 3))
    assert demo.peak(late) == 1
    too_late = served(demo, (0, 1.2), (1, 2))
    assert demo.peak(too_late) == 2


def test_check_holds_spans_against_the_server(demo: ModuleType) -> None:
    waited = demo.Wait("analyst", "granted", 0.5, 0, None)
    spent = waited._replace(spending=sys.modules["receiver"].Spending(1.0, 10, 10, False))
    once = served(demo, (0, 1))
    refused = served(demo, (2, 3), status=429)
    good = demo.Result(1, [spent, waited._replace(refusals=1)], once + refused)
    demo.check(good)
    faults = {
        "the server saw 2 calls at once, and at most 1 were allowed": good._replace(served=once + once),
        "1 calls failed, with status 500": good._replace(served=once + served(demo, (2, 3), status=500)),
        "the server answered 1 calls, and the spans tell of 0": good._replace(waits=[waited]),
        "the server answered 0 calls, and the spans tell of 0": demo.Result(1, [], []),
        "the server refused 1 calls, and the spans tell of 0": good._replace(waits=[spent]),
        "1 calls got no slot: analyst timeout": good._replace(waits=[*good.waits, waited._replace(outcome="timeout")]),
    }
    for message, result in faults.items():
        with pytest.raises(demo.DemoError, match=f"^{message}$"):
            demo.check(result)


def test_library_example_runs(marked: Marked) -> None:
    status, output = marked.run("-W", "error", EXAMPLES / "library.py")
    assert status == 0, output
    first, second, *middle, last = output.splitlines()
    assert re.fullmatch(r"2 hold a slot, \d wait, policy load", first)
    assert second == "dashboard does without: no slot of llm_api is free"
    answers = [line.partition(",")[0] for line in middle]
    documents = [f"indexer has embedded document {number}" for number in range(6)]
    assert sorted(answers) == [*("chat has answered 'since when?'", "chat has answered 'why?'"), *documents]
    assert last == "dashboard has looked"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_programs_do_not_import_loco(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    knows = any(name.startswith("loco_otel") for name in imported)
    assert knows == (path.name not in {"newsroom.py", "frameworks.py", "worker.py"})


def test_a2a_example_reports_each_task_to_its_end() -> None:
    code, output = Marked().run("-W", "error", EXAMPLES / "a2a_server.py")
    assert code == 0, output
    assert output.splitlines() == [
        "writer: submitted working completed -> ONE",
        "writer: submitted working completed -> TWO",
        "editor: submitted working completed -> THREE",
        "editor: submitted working completed -> FOUR",
        "{'writer': 2, 'editor': 2}",
    ]
