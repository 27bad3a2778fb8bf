"""Azure's clients for one deployment: the model of the deployment answers, whichever model the request names."""

import openai
import pytest
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from openai._models import FinalRequestOptions

AZURE = {"api_key": "none", "api_version": "2024-10-21", "azure_endpoint": "https://example.openai.azure.com"}


@pytest.mark.parametrize("deployment", [None, "gpt-4o"])
def test_deployment_client_has_a_fixed_model(deployment: str | None) -> None:
    with openai.AzureOpenAI(**AZURE, azure_deployment=deployment) as client:  # type: ignore[call-overload]
        options = FinalRequestOptions(method="post", url="/chat/completions", json_data={"model": "gpt-4o"})
        description = OpenAIAdapter().describe_call(client, options)
    assert description is not None
    assert description.provider == "azure.ai.openai"
    if deployment is None:
        assert description.accepts_model is None
    else:
        assert description.accepts_model is not None
        assert not description.accepts_model("gpt-4o-mini")
