"""loco-agent's name for `loco_otel.compat.budget`."""

import sys

from loco_otel.compat.budget import *  # noqa: F403 - for type checkers; first, as it may bring a name like the module's own

from loco_otel.compat import budget  # isort: skip

sys.modules[__name__] = budget
