"""One of several workers on one account: three agents, each with eight questions for OpenAI.

A plain program, that knows neither of a scheduler nor of the other workers: LOCO_ENGINE puts the calls of all of them
in one line.

    LOCO_ENGINE=redis://localhost LOCO_CAPACITY=3 opentelemetry-instrument python worker.py
"""

from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI
from opentelemetry import trace

AGENTS = ("planner", "scout", "clerk")
QUESTIONS = 8

tracer = trace.get_tracer("worker")
client = OpenAI()


def work(agent: str) -> None:
    """Ask one question after another."""
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent}
    with tracer.start_as_current_span(f"invoke_agent {agent}", attributes=attributes):
        for number in range(QUESTIONS):
            client.chat.completions.create(
                model="gpt-4.1", messages=[{"role": "user", "content": f"Which ship is the next, after {number}?"}]
            )
            print(f"{agent} has answer {number}", flush=True)


with ThreadPoolExecutor() as threads:
    list(threads.map(work, AGENTS))
