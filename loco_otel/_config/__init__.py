"""Settings: how they are read, checked, described and displayed."""
