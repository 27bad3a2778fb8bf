"""The scheduler's state as JSON values and as tables."""
