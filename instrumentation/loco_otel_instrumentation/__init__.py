"""The SDKs whose calls are scheduled: one folder each."""
