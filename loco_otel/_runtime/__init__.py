"""The parts of one process: scheduler, engine, telemetry and budgets, built from the settings."""
