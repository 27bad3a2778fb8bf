"""loco-agent's name for `loco_otel.compat.adapters.google_adk`."""

import sys

from loco_otel.compat.adapters import google_adk
from loco_otel.compat.adapters.google_adk import *  # noqa: F403 - for type checkers

sys.modules[__name__] = google_adk
