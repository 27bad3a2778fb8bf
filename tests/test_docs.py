"""README and docs are true: examples run, settings and links exist."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from sdk_program import Running, script
from sdk_server import free_port

from loco_otel._config.settings import Settings
from loco_otel._telemetry.catalogue import METRICS
from loco_otel.events import Priority

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_readme_example_runs() -> None:
    (program,) = _blocks(README, "python")
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "one of two slots, for as long as this body runs",
        "writer waited for 0 releases",
        "2",
    ]


def test_policies_page_prints_what_it_shows() -> None:
    page = (ROOT / "docs/policies.md").read_text()
    for program, output in zip(_blocks(page, "python"), _blocks(page, "text"), strict=True):
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == output


def test_identity_page_prints_what_it_shows() -> None:
    page = (ROOT / "docs/identity.md").read_text()
    (program,), (output,) = _blocks(page, "python"), _blocks(page, "text")
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output


def test_adapters_page_prints_what_it_shows() -> None:
    page = (ROOT / "docs/adapters.md").read_text()
    (program,), (output,) = _blocks(page, "python"), _blocks(page, "text")
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, output), done.stderr


def test_policies_page_settings_file_loads(tmp_path: Path) -> None:
    classes, shares = _blocks((ROOT / "docs/policies.md").read_text(), "toml")
    path = tmp_path / "loco.toml"
    path.write_text(classes)
    priorities = Settings.load({"LOCO_CONFIG": str(path)}).priority
    assert priorities[Priority.INTERACTIVE].strict
    assert priorities[Priority.BACKGROUND].share == 0.5
    path.write_text(shares)
    settings = Settings.load({"LOCO_CONFIG": str(path)})
    assert settings.policy == "fair"
    assert settings.shares == {"chat": 4.0, "nightly": 0.5}
    assert settings.tenant_shares == {"acme": 2.0}


WAIT = (ROOT / "docs/why-did-my-call-wait.md").read_text()


def test_wait_page_shows_what_ps_dump_and_span_show(tmp_path: Path) -> None:
    (program,), (ps, dump), (span,) = _blocks(WAIT, "python"), _blocks(WAIT, "text"), _blocks(WAIT, "json")
    prose = re.sub(r"```.*?```", "", WAIT, flags=re.DOTALL)
    typed = [shlex.split(line) for line in re.findall(r"^    (\w.*)", prose, re.MULTILINE)]
    settings = dict(word.split("=", 1) for words in typed if words[0] == "export" for word in words[1:])
    launch, look = (words for words in typed if words[0] != "export")
    assert launch == ["opentelemetry-instrument", "python", "wait.py"]
    environ = {**os.environ, **settings, "OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port())}
    (tmp_path / "wait.py").write_text(program)
    with Running([script(launch[0]), sys.executable, "wait.py"], tmp_path, environ) as running:
        running.until(lambda: any(line.startswith("Press Enter") for line in running.lines()))
        told = subprocess.run(
            [script(look[0]), *look[1:]], check=False, capture_output=True, text=True, env={**environ, "COLUMNS": "100"}
        )
        assert told.returncode == 0, told.stderr
        assert _without_times(told.stdout) == _without_times(ps)
        running.tell("")
        running.ends_well()
        shown, _, exported = "\n".join(running.lines()).partition("Press Enter to end the first call.\n")
    assert _without_times(shown) == _without_times(dump)
    spans = _read_json_objects(exported)
    (waited,) = (it for it in spans if it["attributes"]["loco.agent.id"] == "chat")
    expected = json.loads(span)
    names = {it["context"]["span_id"]: it["name"] for it in spans}
    assert waited["events"] == []
    duration = waited["attributes"]["loco.wait.duration"]
    assert duration > 0
    links = [{"name": names[link["context"]["span_id"]], "attributes": link["attributes"]} for link in waited["links"]]
    assert _round_seconds({"links": links, **waited["attributes"]}, duration) == _round_seconds(
        {"links": expected["links"], **waited["attributes"], **expected["attributes"]},
        expected["attributes"]["loco.wait.duration"],
    )
    assert waited["name"] == expected["name"]


def _without_times(text: str) -> str:
    """Leave out ids, seconds and widths, which differ from run to run."""
    return (
        re.sub(r" +", " ", re.sub(r"\d+\.\d+ s", "N s", re.sub(r"[0-9a-f]{12}-", "ID-", text)))
        .replace(" \n", "\n")
        .strip()
    )


def _round_seconds(shown: Any, wait: float) -> Any:
    """Replace what is equal to the wait, as that differs from run to run."""
    if isinstance(shown, dict):
        return {name: _round_seconds(value, wait) for name, value in shown.items()}
    if isinstance(shown, list):
        return [_round_seconds(value, wait) for value in shown]
    return "the wait" if isinstance(shown, float) and abs(shown - wait) < 0.001 * wait else shown


def _read_json_objects(text: str) -> list[Any]:
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_wait_page_queries_metrics_and_labels_that_exist() -> None:
    (queries,) = _blocks(WAIT, "promql")
    names = {row.prometheus_name for row in METRICS}
    labels = {attribute.replace(".", "_") for row in METRICS for attribute in (*row.attributes, *row.optional)}
    used = set(re.findall(r"\b(?:loco|gen_ai|error)_\w+", queries))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} - names - labels == set()


LIBRARY = (ROOT / "docs" / "library.md").read_text()


@pytest.mark.parametrize("number", range(len(_blocks(LIBRARY, "python"))))
def test_library_examples_print_what_they_show(number: int) -> None:
    program = _blocks(LIBRARY, "python")[number]
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if f"{program}```\n\nprints\n" in LIBRARY:
        assert f"prints\n\n```text\n{done.stdout}```\n" in LIBRARY
    else:
        assert done.stdout


def test_readme_settings_file_loads(tmp_path: Path) -> None:
    (example,) = _blocks(README, "toml")
    path = tmp_path / "loco.toml"
    path.write_text(example)
    settings = Settings.load({"LOCO_CONFIG": str(path)})
    assert settings.capacity == 4
    assert settings.weights == tomllib.loads(example)["weights"]


def test_readme_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| (`LOCO_.*?) \| (.*?) \|", README, re.MULTILINE)
    told = {key.lower(): default for names, default in rows for key in re.findall(r"`LOCO_(\w+)`", names)}
    defaults = {row.key: row.value for row in Settings.load({}).rows()}
    not_in_a_line = {
        "weights",
        "prices",
        "providers",
        "downgrade",
        "resources",
        "shares",
        "tenant_shares",
        "service_name",
        "disabled_instrumentations",
        "semconv_opt_in",
        "priority",
    }
    assert told.keys() == defaults.keys() - not_in_a_line
    for key, default in told.items():
        if key != "alpha":
            assert default.strip("`") == defaults[key], key


def test_readme_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text())
    assert [link for link in links if not _resolves(page, link)] == []


def _resolves(page: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not heading or heading in _list_anchors(target.read_text()))


def _list_anchors(text: str) -> list[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_architecture_lists_the_layers_of_the_contract() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    (table,) = re.findall(
        r"^\| layer \|.*\n\|---.*\n((?:\|.*\n)+)", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE
    )
    rows = [re.findall(r"`([\w.]+)`", row.split("|")[1]) for row in table.splitlines()]
    assert rows == [layer.split(" | ") for layer in layers]


def test_architecture_names_modules_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    paths = re.findall(r"\b((?:patching|_runtime|_budgets|_engine|_core|_waiting|_telemetry)/\w+\.py)", text)
    assert len(set(paths)) > 10
    assert [path for path in paths if not (ROOT / "loco_otel" / path).exists()] == []


DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_decision_has_the_usual_form(page: Path) -> None:
    text = page.read_text()
    title = text.splitlines()[0]
    number = page.name[:4]
    assert title.startswith(f"# {number}. ")
    assert re.search(r"^\*\*Status:\*\* (Accepted|Superseded by)", text, re.MULTILINE)
    assert re.search(r"^\*\*Date:\*\* \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    index = (page.parent / "README.md").read_text()
    assert f"| [{number}]({page.name}) | {title.removeprefix(f'# {number}. ')} |" in index


def test_decision_numbers_have_no_gaps() -> None:
    numbers = re.findall(r"^\| \[?(\d{4})", (ROOT / "docs/decisions/README.md").read_text(), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
