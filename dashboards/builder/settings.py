"""Every number that an alert depends on, in one place. Change one here, then `make dashboards`."""

from typing import NamedTuple

from loco_otel.cli.dashboards import RUNBOOKS


class BurnWindow(NamedTuple):
    """One row of the multi-window, multi-burn-rate table of a budget's period.

    The alert fires while the rate of charges exceeds `factor` times the rate that uses up the limit exactly at the
    period's end, over the long window (it matters) and over the short one (it lasts).
    """

    period: str
    long: str
    short: str
    factor: float
    severity: str


PERIOD_SECONDS = {"hour": 3600, "day": 86_400, "month": 30 * 86_400}
"""Periods with burn rates. A minute is over before an alert arrives, and a total has no end."""

# factor = share of the limit that the long window may take x period / window.
BURN_WINDOWS = (
    BurnWindow("hour", "10m", "2m", 3, "warning"),  # 50 % in 10 minutes
    BurnWindow("day", "15m", "5m", 9.6, "critical"),  # 10 % in 15 minutes
    BurnWindow("day", "1h", "5m", 6, "critical"),  # 25 % in an hour
    BurnWindow("day", "4h", "20m", 3, "warning"),  # 50 % in 4 hours
    BurnWindow("month", "1h", "5m", 14.4, "critical"),  # 2 % in an hour
    BurnWindow("month", "6h", "30m", 6, "critical"),  # 5 % in 6 hours
    BurnWindow("month", "3d", "6h", 1, "warning"),  # 10 % in 3 days
)

BUDGET_WARNING_SHARE = 0.8
BUDGET_CRITICAL_SHARE = 1.0
FORECAST_WINDOW = "30m"
FORECAST_MIN_SHARE = 0.2
"""No forecast is made below this share of the limit: the first call of a period is no trend."""
FORECAST_FOR = "10m"

STARVATION_TICKS = 1000
"""LOCO_MAX_WAIT_TICKS by default: the guard ends a wait before it has more."""
STARVATION_SECONDS = 600
STARVATION_FOR = "1m"

SATURATION = 3.0
"""Calls in slots and calls that wait, over the slots: two waiting calls for each slot."""
SATURATION_FOR = "10m"

REJECTION_WINDOW = "5m"
REJECTION_FOR = "0m"
TIMEOUT_SHARE = 0.05

STORM_WINDOW = "5m"
STORM_REFUSALS = 20
STORM_SHARE = 0.05
"""Of the granted calls. Both must hold: many refusals, and a notable share."""
STORM_FOR = "2m"

RUN_WINDOW = "15m"
RUN_SLOWDOWN = 5.0
"""The median slowdown of runs: four fifths of their time is waiting."""
RUN_SLOWED_FOR = "10m"

INACTIVE_FOR = "5m"
FORKS_FOR = "2m"
ENGINE_AWAY_FOR = "1m"
SILENCE_MEMORY = "1h"
"""For how long a job without telemetry is reported."""
SILENCE_FOR = "5m"
LOSS_WINDOW = "15m"

RUNBOOK_BASE = RUNBOOKS
"""Where the runbooks are served. `loco-otel dashboards export --runbooks URL` replaces it."""
