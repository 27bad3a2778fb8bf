"""Google's SDK for Gemini, with its clients for Vertex AI."""

from loco_otel.patching import (
    LocoInstrumentor,
    NamedArguments,
    Target,
    attempt_wrappers,
    generator_wrappers,
    iterator_body,
    speakeasy,
    stainless,
    wrappers,
)
from loco_otel_instrumentation.google_genai.adapter import GoogleGenaiAdapter, break_stream_cycle
from loco_otel_instrumentation.google_genai.interactions import (
    InteractionsAdapter,
    SpeakeasyRequests,
    StainlessRequests,
)

__all__ = ["GoogleGenaiInstrumentor"]

_MODULE = "google.genai._api_client"
_CLIENT = "BaseApiClient"
_ARGUMENTS = NamedArguments(("http_method", "path", "request_dict", "http_options"))


class GoogleGenaiInstrumentor(LocoInstrumentor):
    """Schedules content, embeddings, images, interactions and decisions; token counts and files pass."""

    sdk = "google.genai"
    requires = "google-genai >= 1.65, < 4"
    not_covered = (
        "aio.live",
        "interactions.create(background=True)",
        "triggers",
        "batches",
        "tunings",
        "models.generate_videos",
    )

    def list_targets(self) -> tuple[Target, ...]:
        """Return the four methods that most calls pass, their attempts, and what builds the request.

        Interactions and decisions have a generated client of their own: Stainless made the one of google-genai 1,
        Speakeasy the one since 2. Each version has one of the two.
        """
        adapter = GoogleGenaiAdapter()
        call = wrappers.wrap_call(adapter, _ARGUMENTS)
        stream = generator_wrappers.wrap_generator(adapter, _ARGUMENTS)
        async_call = wrappers.wrap_async_call(adapter, _ARGUMENTS)
        async_stream = wrappers.wrap_async_call(adapter, _ARGUMENTS, iterator_body.follow_async_iterator)
        async_attempt = attempt_wrappers.wrap_async_attempt(adapter, break_stream_cycle)
        return (
            Target(_MODULE, _CLIENT, "request", call),
            Target(_MODULE, _CLIENT, "request_streamed", stream),
            Target(_MODULE, _CLIENT, "async_request", async_call),
            Target(_MODULE, _CLIENT, "async_request_streamed", async_stream),
            Target(_MODULE, _CLIENT, "_request_once", attempt_wrappers.wrap_attempt(adapter)),
            Target(_MODULE, _CLIENT, "_async_request_once", async_attempt),
            Target(_MODULE, _CLIENT, "_build_request", wrappers.observe_attempt(adapter, _ARGUMENTS)),
            *speakeasy.build_targets(InteractionsAdapter(SpeakeasyRequests()), "google.genai._gaos"),
            *stainless.build_targets(InteractionsAdapter(StainlessRequests()), "google.genai._interactions"),
        )
