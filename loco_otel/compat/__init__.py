"""The API of loco-agent 0.2.2. Programs import these modules under their names in `loco_otel`."""
