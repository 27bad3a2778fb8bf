"""Run published tests of SDKs and instrumentors, bare and with loco-otel on: `python tests/others [distribution ...]`.

Fails if a test passes bare and fails with loco-otel on, also when it is run again, and if no suite could run.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from outcomes import Outcomes, describe_counts, list_regressions, read_outcomes
from sdists import fetch_sdist, read_versions
from suites import SUITES, Suite

_HERE = Path(__file__).resolve().parent
_FOLDER = _HERE.parents[1] / ".venv" / "others"
_ENVIRONMENT = _FOLDER / "env"
_ON_PATH = _HERE / "on_path"
_CAPACITY = "16"
"""Less than the calls that some tests make at the same time, and more than the streams that others leave open."""
_RERUN_LIMIT = 50
"""So many failures have one cause: to run them again would only take time."""
_TEST_TIMEOUT = 120


def main() -> int:
    """Run the suites that the command line names, or all, and return the exit status."""
    parser = argparse.ArgumentParser(prog="tests/others", description=__doc__)
    parser.add_argument("distribution", nargs="*", help="default: all")
    parser.add_argument("--workers", default="2", help="processes of pytest-xdist (default 2)")
    options = parser.parse_args()
    versions = read_versions(_ENVIRONMENT)
    unknown = set(options.distribution) - {suite.distribution for suite in SUITES}
    if unknown:
        parser.error(f"no suite of {', '.join(sorted(unknown))}")
    chosen = [suite for suite in SUITES if not options.distribution or suite.distribution in options.distribution]
    results = [_check_suite(suite, versions[suite.distribution], options.workers) for suite in chosen]
    return 0 if any(results) and False not in results else 1


def _check_suite(suite: Suite, version: str, workers: str) -> bool | None:
    """Run one suite twice. Return whether loco-otel changes no outcome, or None if there is nothing to run."""
    title = f"{suite.distribution} {version}"
    sdist = fetch_sdist(suite.distribution, version, _FOLDER)
    if sdist is None:
        print(f"{title}: the index has no source distribution", flush=True)
        return None
    if not all((sdist / tests).exists() for tests in suite.tests):
        print(f"{title}: the source distribution has no tests", flush=True)
        return None
    print(f"{title}", *(f"without {each}: {suite.reason}" for each in suite.left_out), sep="\n  ", flush=True)
    every = [*suite.tests, *(f"--ignore={each}" for each in suite.left_out), "-n", workers]
    bare, _ = _run_tests(suite, sdist, every, "bare")
    scheduled, calls = _run_tests(suite, sdist, every, "scheduled")
    regressions = [test for test in list_regressions(bare, scheduled) if test.partition("[")[0] not in suite.documented]
    if 0 < len(regressions) <= _RERUN_LIMIT:
        repeated, _ = _run_tests(suite, sdist, [*regressions, "-n", "0"], "repeated")
        unstable = [test for test in regressions if repeated.get(test) == "passed"]
        regressions = [test for test in regressions if test not in unstable]
        print(*(f"  passes when repeated: {test}" for test in unstable), sep="\n", flush=True)
    print(*(f"  FAILS WITH LOCO-OTEL ON: {test}" for test in regressions), sep="\n")
    if not calls or not any(outcome == "passed" for outcome in bare.values()):
        print(f"  NOTHING PROVED: {calls:,} calls scheduled, {describe_counts(bare)} bare")
        return False
    return not regressions


def _run_tests(suite: Suite, sdist: Path, selection: Sequence[str], name: str) -> tuple[Outcomes, int]:
    """Run tests of an unpacked distribution. Return their outcomes and the number of scheduled calls."""
    outcomes, calls = (_FOLDER / f"{sdist.name}-{name}.{kind}" for kind in ("outcomes", "calls"))
    output = _FOLDER / f"{sdist.name}-{name}.log"
    for file in (outcomes, calls):
        file.unlink(missing_ok=True)
    plugins = ["-p", "outcome_log", *(() if name == "bare" else ("-p", "loco_otel_on"))]
    own = ["--override-ini=addopts=", "--assert=plain", "--tb=native", f"--timeout={_TEST_TIMEOUT}", "-q", "-rfE"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("LOCO_", "OTEL_", "PYTEST_"))}
    environ |= {"PYTHONPATH": os.pathsep.join((str(_ON_PATH), str(sdist))), "LOCO_CAPACITY": _CAPACITY}
    environ |= {"OTHERS_OUTCOMES": str(outcomes), "OTHERS_CALLS": str(calls)}
    command = [str(_ENVIRONMENT / "bin" / "python"), "-m", "pytest", *plugins, *own, *suite.options, *selection]
    started = time.monotonic()
    with output.open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=sdist, env=environ, stdout=log, stderr=subprocess.STDOUT, check=False)
    found = read_outcomes(outcomes)
    count = sum(map(int, calls.read_text(encoding="ascii").split())) if calls.exists() else 0
    seconds = time.monotonic() - started
    print(f"  {name}: {describe_counts(found)}, {count:,} calls scheduled, {seconds:.0f} s ({output})", flush=True)
    return found, count


if __name__ == "__main__":
    sys.exit(main())
