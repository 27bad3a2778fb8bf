"""loco-agent's name for `loco_otel.compat.pretty`."""

import sys

from loco_otel.compat.pretty import *  # noqa: F403 - for type checkers; first, as it may bring a name like the module's own

from loco_otel.compat import pretty  # isort: skip

sys.modules[__name__] = pretty
