"""The scheduler itself, sans-io: no lock, clock, log, I/O or random numbers of its own.

Every operation takes `now`, changes the state and returns the events that the change made. It is deterministic:
the same operations with the same `now` and the same `draw` give the same grants.
"""
