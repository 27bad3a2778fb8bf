"""docs/doctor.md shows what the doctor prints, and names every key."""

import json
import re
import socket
from pathlib import Path

import pytest
from doctor_page import find_block, read_variables
from doctor_process import Doctor

PAGE = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()


def without_versions(text: str) -> str:
    """Leave out versions and widths, which differ between environments."""
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d+\w*){1,3}", "N", text))


def test_page_equals_output_and_lists_keys(doctor: Doctor) -> None:
    environ = read_variables(PAGE)
    with socket.create_server(("localhost", 0)) as server:
        port = str(server.getsockname()[1])
    environ["OTEL_EXPORTER_PROMETHEUS_PORT"] = port
    done = doctor(**environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert without_versions(done.stdout) == without_versions(find_block(PAGE, "text").replace("9464", port))

    report = json.loads(doctor("--json", **environ).stdout)
    top, of_sdk = (set(re.findall(r"`(\w+)`", column)) for column in first_columns())
    assert top == report.keys()
    assert all(of_sdk == sdk.keys() for sdk in report["sdks"])
    rows = [*report["exporters"], *report["settings"], report["workers"], *report["sdks"][0]["hooks"]]
    rows += report["frameworks"]
    assert all(f"`{key}`" in PAGE for row in rows for key in row)
    assert report["verdict"] == done.stdout.splitlines()[-1]


def first_columns() -> list[str]:
    tables = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    return ["\n".join(line.split("|")[1] for line in table.splitlines()[2:]) for table in tables]


@pytest.mark.nightly
def test_import_and_source_give_the_same_report(doctor: Doctor) -> None:
    read, imported = (json.loads(doctor("--json", *options).stdout) for options in ((), ("--import",)))
    assert not any(sdk.pop("imported") for sdk in read["sdks"])
    assert all(sdk.pop("imported") == sdk["patched"] for sdk in imported["sdks"])
    assert not any(framework.pop("tested") for framework in read["frameworks"])
    assert all(framework.pop("tested") for framework in imported["frameworks"])
    assert read == imported
    assert all(len(sdk["hooks"]) > 1 for sdk in read["sdks"] if sdk["patched"])
