"""loco-agent's name for `loco_otel.compat.task`."""

import sys

from loco_otel.compat.task import *  # noqa: F403 - for type checkers; first, as it may bring a name like the module's own

from loco_otel.compat import task  # isort: skip

sys.modules[__name__] = task
