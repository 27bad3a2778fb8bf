"""loco-agent's name for `loco_otel.compat.adapters`."""
