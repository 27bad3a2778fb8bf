"""LangGraph: a hundred runs of one graph, of which twenty are wide; prints the latency of each.

A run begins after a set number of answers, so that as much work waits on a fast machine as on a slow one. Its
latency is the number of answers, of all runs, from its beginning to its end.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from itertools import accumulate
from operator import add
from typing import Annotated, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

RUNS, WIDE_RUNS = 100, 20
LOAD = 0.7
"""Calls that are answered between the beginnings of two runs, for each call of the first of them."""

model = ChatOpenAI(model="model-searcher")
progress = Counter[str]()
has_progressed = asyncio.Event()


class State(TypedDict):
    """What the graph knows: how many searches each round has, and how many rounds are left."""

    width: int
    rounds: int
    found: Annotated[list[str], add]


def record_progress(of: str) -> None:
    progress[of] += 1
    has_progressed.set()


async def ask(question: str) -> str:
    answer = await model.ainvoke(question)
    record_progress("answers")
    return str(answer.content)


async def plan(state: State) -> dict[str, object]:
    return {"rounds": state["rounds"] - 1, "found": [await ask("What should be searched?")]}


def spread(state: State) -> list[Send]:
    return [Send("search", state) for _ in range(state["width"])]


async def search(_: State) -> dict[str, object]:
    return {"found": [await ask("Which harbour is the safest?")]}


async def join(_: State) -> dict[str, object]:
    return {}


def is_done(state: State) -> str:
    return "plan" if state["rounds"] else END


async def run_graph(graph: object, width: int, rounds: int) -> int:
    started_at = progress["answers"]
    result = await graph.ainvoke({"width": width, "rounds": rounds, "found": []})
    record_progress("runs")
    assert len(result["found"]) == rounds * (1 + width)
    return progress["answers"] - started_at


async def main() -> None:
    builder = StateGraph(State)
    for node in (plan, search, join):
        builder.add_node(node)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", spread, ["search"])
    builder.add_edge("search", "join")
    builder.add_conditional_edges("join", is_done)
    graph = builder.compile()
    shapes = [(10, 1)] * WIDE_RUNS + [(1, 1)] * (RUNS - WIDE_RUNS)
    random.Random(1).shuffle(shapes)
    begins = [0, *accumulate(LOAD * rounds * (1 + width) for width, rounds in shapes)]
    runs: list[asyncio.Task[int]] = []
    for shape, begin in zip(shapes, begins, strict=False):
        while progress["answers"] < begin and progress["runs"] < len(runs):
            has_progressed.clear()
            await has_progressed.wait()
        runs.append(asyncio.create_task(run_graph(graph, *shape)))
    json.dump(await asyncio.gather(*runs), sys.stdout)


asyncio.run(main())
