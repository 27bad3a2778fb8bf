"""loco-agent's name for `loco_otel.compat.adaptive`."""

import sys

from loco_otel.compat.adaptive import *  # noqa: F403 - for type checkers; first, as it may bring a name like the module's own

from loco_otel.compat import adaptive  # isort: skip

sys.modules[__name__] = adaptive
