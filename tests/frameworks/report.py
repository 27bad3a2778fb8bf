"""Run a program as it is, and then print what its calls were charged, by agent and by run: `report.py PROGRAM`."""

import json
import runpy
import sys

import loco_otel

if __name__ == "__main__":
    runpy.run_path(sys.argv[1], run_name="__main__")
    rows = loco_otel.spend(by="agent,workflow,session,model")
    runs = loco_otel.spend(by="run,agent")
    sys.stdout.write(json.dumps([[[*row.by, row.calls] for row in totals] for totals in (rows, runs)]))
