"""Base of a test of OpenTelemetry's GenAI instrumentors that makes no call, and so is left out."""


class TelemetryHandlerScopeTest:
    pass
