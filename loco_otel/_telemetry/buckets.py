"""The upper bounds of the buckets of histograms."""

# From the microseconds of a free slot to half an hour. Dense from one second to a minute and a half, where a wait
# becomes a problem: a quantile is no more exact than the bucket that it is in.
WAIT_SECONDS = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 3.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
    90.0, 120.0, 300.0, 600.0, 1200.0, 1800.0,
)  # fmt: skip
# An LLM call takes from a tenth of a second to minutes; a lease is taken back after 15 of them.
HOLD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0)
# 0 apart, as most requests do not wait; the guard ends waits at 1000 by default.
WAIT_TICKS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
# A round trip within a data centre takes 0.1 to 2 ms; LOCO_ENGINE_TIMEOUT is 0.25 s by default.
ENGINE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# The conventions' own buckets.
GEN_AI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
# From one quick call to a night's batch.
RUN_SECONDS = (
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0,
)  # fmt: skip
# 1 is a run that never waited.
SLOWDOWNS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 50.0, 100.0)
GEN_AI_TOKENS = tuple(4.0**power for power in range(14))
