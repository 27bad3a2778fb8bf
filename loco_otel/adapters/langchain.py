"""loco-agent's name for `loco_otel.compat.adapters.langchain`."""

import sys

from loco_otel.compat.adapters import langchain
from loco_otel.compat.adapters.langchain import *  # noqa: F403 - for type checkers

sys.modules[__name__] = langchain
