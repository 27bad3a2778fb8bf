"""What the tests of the settings compare."""

from collections.abc import Mapping

import pytest

from loco_otel._config.settings import Settings
from loco_otel.errors import ConfigurationError

OPENTELEMETRY_KEYS = {"service_name", "disabled_instrumentations", "semconv_opt_in"}
"""Settings that variables of OpenTelemetry have."""


def load_fault(environ: Mapping[str, str]) -> str:
    """Return the error of an invalid environment: one line."""
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(environ)
    message = str(raised.value)
    assert message.isprintable()
    return message
