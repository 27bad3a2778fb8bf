"""`python -m loco_otel.cli`."""

from loco_otel.cli.main import main

main(prog_name="loco-otel")
