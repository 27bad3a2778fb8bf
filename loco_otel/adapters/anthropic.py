"""loco-agent's name for `loco_otel.compat.adapters.anthropic`."""

import sys

from loco_otel.compat.adapters import anthropic
from loco_otel.compat.adapters.anthropic import *  # noqa: F403 - for type checkers

sys.modules[__name__] = anthropic
