"""The `loco-otel` command."""
