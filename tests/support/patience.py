"""How long tests wait for what must happen."""

PATIENCE = 400.0
"""Seconds after which a test gives up; long, since no test that passes waits for it and a busy machine is slow."""
