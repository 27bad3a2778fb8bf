"""A controllable LLM server for scheduling tests: a separate process that speaks the HTTP APIs of several providers.

Modules:

- `client`: `LlmServer` starts and stops the process and controls it from a test. Tests import nothing else.
- `server`, `control`: the process. `http1` is the transport, `journal` what is recorded, `script` what is scripted.
- `openai_api`, `anthropic_api`, `gemini_api`, `interactions_api`, `bedrock_api`, `bedrock_agents_api`: one
  class per provider API.
- `answers`: the types that these classes share, and the token counts. `eventstream`: the framing of Bedrock streams.

Usage:

    with LlmServer() as server:
        client = groq.Groq(api_key="fake", base_url=server.url("groq"))
        server.hold()
        ...                                  # start three calls in threads
        server.wait_for(in_progress=2)       # two of them have arrived and are being held
        server.release()
        assert server.peak() == 2
"""

from .client import LlmServer, Record, State

__all__ = ["LlmServer", "Record", "State"]
