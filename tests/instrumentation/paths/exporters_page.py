"""The settings and commands of `docs/exporters.md`, for the tests to run with."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

_PAGE = Path(__file__).parents[3] / "docs" / "exporters.md"


class Commands(NamedTuple):
    """The commands of a section."""

    settings: dict[str, str]
    command: list[str]


def commands(section: str) -> Commands:
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", _PAGE.read_text(), re.DOTALL | re.MULTILINE)
    typed = [shlex.split(line) for line in re.findall(r"^    (.+)", text, re.MULTILINE)]
    exports = [word.split("=", 1) for words in typed if words[0] == "export" for word in words[1:]]
    (command,) = [words for words in typed if words[0] != "export"]
    return Commands(dict(exports), command)
