"""AWS Bedrock's runtime, through botocore, which boto3 is made of, and through aiobotocore."""

from loco_otel.patching import LocoInstrumentor, NamedArguments, Target, decision_wrappers, wrappers
from loco_otel_instrumentation.botocore.adapter import BedrockAdapter, follow_answer
from loco_otel_instrumentation.botocore.retries import find_failure, watch_async_decision, watch_decision

__all__ = ["AiobotocoreInstrumentor", "BotocoreInstrumentor"]

_ARGUMENTS = NamedArguments(("operation_name", "api_params"))
_NOT_COVERED = ("invoke_model_with_bidirectional_stream", "start_async_invoke", "bedrock-agent-runtime")


class BotocoreInstrumentor(LocoInstrumentor):
    """Schedules Converse and InvokeModel, whole and streamed; CountTokens, guardrails and other services pass."""

    sdk = "botocore"
    requires = "botocore >= 1.34.131, < 2"
    not_covered = _NOT_COVERED

    def list_targets(self) -> tuple[Target, ...]:
        """Return the method that all calls of AWS pass, and the one that decides on a retry and pauses for it."""
        adapter = BedrockAdapter("botocore")
        call = wrappers.wrap_call(adapter, _ARGUMENTS, follow_answer)
        decision = decision_wrappers.wrap_decision(adapter, find_failure, watch_decision)
        return (
            Target("botocore.client", "BaseClient", "_make_api_call", call),
            Target("botocore.endpoint", "Endpoint", "_needs_retry", decision),
        )


class AiobotocoreInstrumentor(LocoInstrumentor):
    """Schedules the same operations of aiobotocore."""

    sdk = "aiobotocore"
    requires = "aiobotocore >= 2.13.1, < 4"
    not_covered = _NOT_COVERED

    def list_targets(self) -> tuple[Target, ...]:
        """Return the async counterparts of botocore's methods."""
        adapter = BedrockAdapter("aiobotocore")
        call = wrappers.wrap_async_call(adapter, _ARGUMENTS, follow_answer)
        decision = decision_wrappers.wrap_async_decision(adapter, find_failure, watch_async_decision)
        return (
            Target("aiobotocore.client", "AioBaseClient", "_make_api_call", call),
            Target("aiobotocore.endpoint", "AioEndpoint", "_needs_retry", decision),
        )
