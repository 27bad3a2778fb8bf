"""loco-agent's name for `loco_otel.compat.adapters.vanilla`."""

import sys

from loco_otel.compat.adapters import vanilla
from loco_otel.compat.adapters.vanilla import *  # noqa: F403 - for type checkers

sys.modules[__name__] = vanilla
