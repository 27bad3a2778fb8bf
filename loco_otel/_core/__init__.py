"""The scheduler itself, sans-io: no lock, clock, log, I/O or random numbers of its own.

Every operation takes `now`, changes the state and records the events of the change. It is deterministic: the same
operations with the same `now` and the same `draw` result in the same grants.
"""
