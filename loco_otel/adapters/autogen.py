"""loco-agent's name for `loco_otel.compat.adapters.autogen`."""

import sys

from loco_otel.compat.adapters import autogen
from loco_otel.compat.adapters.autogen import *  # noqa: F403 - for type checkers

sys.modules[__name__] = autogen
