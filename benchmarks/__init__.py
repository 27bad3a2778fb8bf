"""Benchmarks of the hot paths: `make bench`.

Each prints ratios against a baseline measured in the same run. CPU time, best of several rounds in turn: the machines
that run this are shared, and the best round is the one that was disturbed least.
"""
