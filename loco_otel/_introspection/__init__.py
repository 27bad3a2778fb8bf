"""The scheduler's state for people: as values that JSON takes, and as tables."""
