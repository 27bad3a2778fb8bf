"""loco-agent's name for `loco_otel.compat.adapters.openai`."""

import sys

from loco_otel.compat.adapters import openai
from loco_otel.compat.adapters.openai import *  # noqa: F403 - for type checkers

sys.modules[__name__] = openai
