"""loco-agent's name for `loco_otel.compat.adapters.aws_bedrock`."""

import sys

from loco_otel.compat.adapters import aws_bedrock
from loco_otel.compat.adapters.aws_bedrock import *  # noqa: F403 - for type checkers

sys.modules[__name__] = aws_bedrock
