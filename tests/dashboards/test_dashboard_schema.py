"""The dashboards against the types that Grafana publishes; the compiler complains about unknown fields too."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dashboard_files import DASHBOARDS

MODULES = Path(__file__).parents[2] / ".venv" / "grafana" / "node_modules"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm installs Grafana's types; `.ci/run` has it")

CHECK = """\
import type {{ Dashboard }} from "{raw}/dashboard/x/types.gen";
import type {{ Options as Stat }} from "{raw}/composable/stat/panelcfg/x/types.gen";
import type {{ Options as TimeSeries }} from "{raw}/composable/timeseries/panelcfg/x/types.gen";
import type {{ Options as BarGauge }} from "{raw}/composable/bargauge/panelcfg/x/types.gen";
import type {{ Options as Table }} from "{raw}/composable/table/panelcfg/x/types.gen";
import type {{ Options as Heatmap }} from "{raw}/composable/heatmap/panelcfg/x/types.gen";

// JSON has the values of enumerations, not their members; the options of panels are checked apart.
type Loose<T> = unknown extends T ? T
  : T extends string ? `${{T}}`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Loose<U>[]
  : T extends object ? {{ [K in keyof T]: Loose<T[K]> }}
  : T;
type Some<T> = Loose<Partial<T>>;

{constants}
"""

OPTIONS = {"stat": "Stat", "timeseries": "TimeSeries", "bargauge": "BarGauge", "table": "Table", "heatmap": "Heatmap"}
ANNOTATION_FIELDS = {"expr", "step", "titleFormat", "textFormat"}
"""Fields of annotations that the data source Prometheus reads, and the type does not have."""


def _compile(folder: Path, constants: list[str]) -> str:
    """Return the compiler's complaints."""
    raw = MODULES / "@grafana" / "schema" / "dist" / "types" / "raw"
    assert raw.is_dir(), "run `make .venv/grafana/.done`"
    (folder / "check.ts").write_text(CHECK.format(raw=raw, constants="\n".join(constants)))
    options = {
        "strict": True,
        "noEmit": True,
        "skipLibCheck": True,
        "module": "preserve",
        "target": "es2022",
        "types": [],
    }
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["check.ts"]}))
    done = subprocess.run(
        ["node", MODULES / "typescript" / "bin" / "tsc", "-p", folder], check=False, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def _declare(name: str, kind: str, value: Any) -> str:
    # As a literal, so that the compiler complains about fields that the type does not have.
    return f"export const {name}: {kind} = {json.dumps(value)};"


def test_dashboards_have_grafanas_types(tmp_path: Path) -> None:
    constants = []
    for name, board in DASHBOARDS.items():
        constant = re.sub(r"\W", "_", name)
        annotations = [
            {key: value for key, value in it.items() if key not in ANNOTATION_FIELDS}
            for it in board["annotations"]["list"]
        ]
        plain = {**board, "annotations": {"list": annotations}}
        constants.append(_declare(constant, "Loose<Dashboard>", plain))
        constants += [
            _declare(f"{constant}_{panel['id']}", f"Some<{OPTIONS[panel['type']]}>", panel["options"])
            for panel in board["panels"]
            if panel["type"] != "row"
        ]
    assert _compile(tmp_path, constants) == ""


@pytest.mark.parametrize(
    ("kind", "value", "complaint"),
    [
        ("Loose<Dashboard>", {"schemaVersion": 42, "graphTooltip": 9}, "DashboardCursorSync"),
        ("Some<Stat>", {"colourMode": "value"}, "colourMode"),
        ("Some<Stat>", {"colorMode": "colourful"}, "colourful"),
    ],
)
def test_compiler_complains_about_a_wrong_field(tmp_path: Path, kind: str, value: Any, complaint: str) -> None:
    assert complaint in _compile(tmp_path, [_declare("wrong", kind, value)])
