"""loco-agent's name for `loco_otel.compat.a2a`."""

import sys

from loco_otel.compat import a2a
from loco_otel.compat.a2a import *  # noqa: F403 - for type checkers

sys.modules[__name__] = a2a
