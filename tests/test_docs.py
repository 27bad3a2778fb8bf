"""What README and docs say is true: examples run, settings and links exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from loco_otel._config.settings import Settings

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


def test_policies_page_prints_what_it_says() -> None:
    page = (ROOT / "docs/policies.md").read_text()
    (program,), (said,) = _blocks(page, "python"), _blocks(page, "text")
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == said


def test_identity_page_prints_what_it_says() -> None:
    page = (ROOT / "docs/identity.md").read_text()
    (program,), (output,) = _blocks(page, "python"), _blocks(page, "text")
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output


def test_policies_page_settings_file_loads(tmp_path: Path) -> None:
    (example,) = _blocks((ROOT / "docs/policies.md").read_text(), "toml")
    path = tmp_path / "loco.toml"
    path.write_text(example)
    settings = Settings.load({"LOCO_CONFIG": str(path)})
    assert settings.policy == "fair"
    assert settings.shares == {"chat": 4.0, "nightly": 0.5}
    assert settings.tenant_shares == {"acme": 2.0}


LIBRARY = (ROOT / "docs" / "library.md").read_text()


@pytest.mark.parametrize("number", range(len(_blocks(LIBRARY, "python"))))
def test_examples_of_the_library_run_and_print_what_they_say(number: int) -> None:
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
        "downgrade",
        "resources",
        "shares",
        "tenant_shares",
        "service_name",
        "disabled_instrumentations",
    }
    assert told.keys() == defaults.keys() - not_in_a_line
    for key, default in told.items():
        if key != "alpha":
            assert default.strip("`") == defaults[key], key


def test_readme_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
