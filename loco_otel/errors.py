"""What loco-otel may raise into a program: a decided rejection, or a setting that cannot be used. Nothing else."""


class LocoError(Exception):
    """Root of all errors that loco-otel raises."""


class ConfigurationError(LocoError):
    """A setting is wrong; the message names the key, the value and what is allowed."""


class AcquireRejectedError(LocoError):
    """The scheduler decided that a request may not go.

    Attributes:
        agent: who asked.
        resource: what was asked for.
        waited: seconds spent waiting.

    """

    def __init__(self, message: str, *, agent: str, resource: str, waited: float = 0.0) -> None:
        super().__init__(message)
        self.agent = agent
        self.resource = resource
        self.waited = waited


class AcquireTimeoutError(AcquireRejectedError, TimeoutError):
    """No slot came free within the time allowed."""


class BackpressureError(AcquireRejectedError):
    """Too many requests wait already."""


class ShutdownError(AcquireRejectedError):
    """The scheduler is shutting down and takes no more requests."""


class BudgetExceededError(AcquireRejectedError):
    """The agent's budget is used up."""
