"""loco-agent's name for `loco_otel.compat.agent`."""

import sys

from loco_otel.compat.agent import *  # noqa: F403 - for type checkers; first, as it may bring a name like the module's own

from loco_otel.compat import agent  # isort: skip

sys.modules[__name__] = agent
