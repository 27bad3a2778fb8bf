"""loco-agent's name for `loco_otel.compat.multi_resource`."""

import sys

from loco_otel.compat.multi_resource import *  # noqa: F403 - for type checkers; first, as it may bring a name like the module's own

from loco_otel.compat import multi_resource  # isort: skip

sys.modules[__name__] = multi_resource
