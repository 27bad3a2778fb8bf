"""The page about budgets is right: its program is run against the server, its settings are loaded."""

import os
import re
import subprocess
import sys
from pathlib import Path

from sdk_server import KEY, LlmServer

from loco_otel._config.settings import Settings
from loco_otel.money import Action, Period, Scope

PAGE = (Path(__file__).parent.parent.parent / "docs/budgets.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_program_prints_what_the_page_shows(server: LlmServer, tmp_path: Path) -> None:
    (program,), (printed, spent) = blocks("python"), blocks("text")
    environ = {
        **os.environ,
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": server.url("openai"),
        "LOCO_LEDGER": str(tmp_path / "ledger.db"),
        "COLUMNS": "120",
    }

    def output(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", *command], check=False, capture_output=True, text=True, env=environ
        )
        assert done.returncode == 0, done.stderr
        return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())

    assert output("-c", program) == printed
    (command,) = re.findall(r"^    loco-otel (spend.*)$", PAGE, re.MULTILINE)
    assert output("-m", "loco_otel.cli", *command.split()) == spent
    assert "analyst" in output("-m", "loco_otel.cli", "budgets")


def test_settings_equal_those_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "loco.toml"
    file.write_text("\n".join(blocks("toml")[::-1]))
    settings = Settings.load({"LOCO_CONFIG": str(file)})
    acme, heavy, each = settings.limits
    assert (acme.scope, acme.key, acme.limit, acme.period) == (Scope.TENANT, "acme", 300_000_000, Period.MONTH)
    assert (heavy.key, heavy.limit, heavy.period) == ("gpt-4o*", 5_000_000, Period.HOUR)
    assert (each.key, each.period, each.action) == (None, Period.DAY, Action.DOWNGRADE)
    assert "harbour-*" in settings.prices
