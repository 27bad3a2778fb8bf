"""The demo: agents on two slots, seen from outside.

    python examples/demo/run.py [program [libraries]]

Starts a mock LLM server, runs a program of agents under `opentelemetry-instrument`, shows who holds and who waits
while it does, and at the end what each agent waited and took. `program` is `examples/newsroom.py` by default; any
other that uses the OpenAI, the Anthropic or the Google SDK will do. `libraries` is a folder of packages that only the
program imports. Writes the report of the run and its spans to build/demo. Exit status 1 and a message when anything is
not as it should be, 130 after Ctrl-C; in any case no process stays behind.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import report
from child import command
from errors import DemoError
from program import Program
from receiver import Receiver
from rich.console import Console
from screen import Screen
from server import MockServer
from stage import look_again, perform, shown

from loco_otel.cli.dashboards import load_dashboards

CAPACITY = 2
REFUSE_AFTER = 10
"""Calls done until the server begins to refuse."""
TIME_LIMIT = 120.0
NEWSROOM = Path(__file__).resolve().parents[1] / "newsroom.py"
RESULTS = Path(__file__).resolve().parents[2] / "build" / "demo"
"""The reports and the spans of the last runs."""


def main(arguments: list[str]) -> int:
    """Run the demo; return its exit status."""
    if len(arguments) > 2 or any(argument.startswith("-") for argument in arguments):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    path, libraries = [*map(Path, arguments), None, None][:2]
    return perform(lambda console: play(path or NEWSROOM, console, libraries))


def play(path: Path, console: Console, libraries: Path | None = None) -> None:
    """Run a program against a mock server, and report.

    Raises:
        DemoError: something is not as it should be.
        Stopped: somebody wants an end.

    """
    if not path.is_file():
        raise DemoError(f"there is no program {path}")
    if libraries is not None and not libraries.is_dir():
        raise DemoError(f"there is no folder {libraries}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = MockServer(directory)
        stack.callback(server.stop)
        spans = directory / f"{path.stem}.jsonl"
        receiver = Receiver(spans)
        stack.callback(receiver.stop)
        while not server.ready:
            look_again()
        console.print(
            f"A mock LLM server (OpenAI, Anthropic, Gemini) answers on {server.address}.\n"
            f"{shown(path)} runs under opentelemetry-instrument, with LOCO_CAPACITY={CAPACITY}:",
            soft_wrap=True,
        )
        program = Program(
            path,
            capacity=CAPACITY,
            server=server.address,
            receiver=receiver.endpoint,
            directory=directory,
            libraries=libraries,
        )
        stack.callback(program.stop)
        watch(program, server, receiver, Screen(console))
        result = report.Result(CAPACITY, receiver.waits(), server.served())
        report.check(result)
        page = write_page(path, spans)
    report.show(console, result)
    tell_more(console, program.metrics_url)
    show_views(console, page)


def watch(program: Program, server: MockServer, receiver: Receiver, screen: Screen) -> None:
    """Show how the program goes on, and let the server refuse some calls on the way, until it has ended.

    Raises:
        DemoError: it failed, or none of its SDKs was scheduled, or it takes too long.
        Stopped: somebody wants an end.

    """
    ends_at = time.monotonic() + TIME_LIMIT
    scheduled: set[str] = set()
    refused = False
    with screen:
        while program.status is None:
            look_again()
            standing, waits = program.standing(), receiver.waits()
            for sdk in () if standing is None else standing.sdks:
                if sdk not in scheduled:
                    scheduled.add(sdk)
                    screen.say(f"  {program.metrics_url} says: the calls of {sdk} are scheduled")
            if len(waits) >= REFUSE_AFTER and not refused:
                refused = True
                server.refuse("openai", "anthropic")
                screen.say("  the server refuses the next two calls to OpenAI and to Anthropic with 429")
            for line in program.new_lines():
                screen.say(f"  {line}")
            screen.show(standing, waits)
            if time.monotonic() > ends_at:
                raise DemoError(f"the program has not ended within {TIME_LIMIT:.0f} s")
        for line in program.new_lines():
            screen.say(f"  {line}")
    if program.status != 0:
        raise DemoError(f"the program failed, with exit status {program.status}")
    if not scheduled:
        raise DemoError(f"no SDK was scheduled while the program ran, as far as {program.metrics_url} said")


def tell_more(console: Console, metrics_url: str) -> None:
    """Say how to go on from here."""
    scripts = shown(Path(sys.executable).parent)
    console.print(
        "\n[bold]With your own keys[/] (well under a dollar):\n"
        "  export OPENAI_API_KEY=... ANTHROPIC_API_KEY=... LOCO_CAPACITY=2\n"
        "  export OTEL_METRICS_EXPORTER=prometheus OTEL_TRACES_EXPORTER=none OTEL_LOGS_EXPORTER=none\n"
        f"  {scripts}/opentelemetry-instrument {scripts}/python {shown(NEWSROOM)}\n"
        f"[bold]Metrics[/] were on {metrics_url}. With those settings, while it runs:\n"
        "  curl -s http://localhost:9464/metrics | grep ^loco_\n"
        "[bold]To a collector[/], spans and metrics:\n"
        "  export OTEL_TRACES_EXPORTER=otlp OTEL_METRICS_EXPORTER=otlp\n"
        "  export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318",
        soft_wrap=True,
    )


def write_page(path: Path, spans: Path) -> Path:
    """Keep the spans of a run, and write its report with `loco-otel report`; return the report's file.

    Raises:
        DemoError: the command failed.

    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept, page = RESULTS / spans.name, RESULTS / f"{path.stem}.html"
    shutil.move(spans, kept)
    arguments = ["--trace", kept, "--out", page, "--title", f"{path.name} under loco-otel"]
    done = subprocess.run([command("loco-otel"), "report", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise DemoError(f"loco-otel report failed: {done.stderr.strip()}")
    return page


def show_views(console: Console, page: Path) -> None:
    """Print a line each for the live view, the report and the dashboards."""
    scripts = shown(Path(sys.executable).parent)
    titles = ", ".join(board["title"].removeprefix("loco-otel / ") for board in load_dashboards())
    console.print(
        f"\n[bold]Live view[/], while a program runs with those settings: {scripts}/loco-otel top\n"
        f"[bold]Report[/] of this run: {shown(page)}\n"
        f"[bold]Dashboards[/] that {scripts}/loco-otel dashboards push --url URL would import: {titles}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
