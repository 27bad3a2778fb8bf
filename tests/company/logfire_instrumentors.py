"""Logfire's functions for an SDK in the form of instrumentors."""

from typing import Any

import logfire
from company_spans import processor


class _LogfireInstrumentor:
    sdk: str
    installed: Any
    """Of the class, as an instrumentor is a singleton: once it is collected, Logfire restores the methods."""

    def instrument(self, *, skip_dep_check: bool) -> None:
        assert skip_dep_check
        logfire.configure(
            send_to_logfire=False, console=False, inspect_arguments=False, additional_span_processors=[processor]
        )
        installed = getattr(logfire, f"instrument_{self.sdk}")()
        installed.__enter__()
        type(self).installed = installed

    def uninstrument(self) -> None:
        self.installed.__exit__(None, None, None)


class OpenAIInstrumentor(_LogfireInstrumentor):
    sdk = "openai"


class AnthropicInstrumentor(_LogfireInstrumentor):
    sdk = "anthropic"
