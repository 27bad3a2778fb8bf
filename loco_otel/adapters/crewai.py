"""loco-agent's name for `loco_otel.compat.adapters.crewai`."""

import sys

from loco_otel.compat.adapters import crewai
from loco_otel.compat.adapters.crewai import *  # noqa: F403 - for type checkers

sys.modules[__name__] = crewai
