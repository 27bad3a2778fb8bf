"""loco-agent's name for `loco_otel.compat.adapters.base`."""

import sys

from loco_otel.compat.adapters import base
from loco_otel.compat.adapters.base import *  # noqa: F403 - for type checkers

sys.modules[__name__] = base
