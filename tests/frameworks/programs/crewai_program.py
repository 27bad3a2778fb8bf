"""CrewAI: crews with a tool, a stream, Anthropic's token counts, and tasks side by side in threads and in tasks."""

import asyncio

import anthropic
import openai
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]


def create_agent(role: str, family: str = "openai/gpt", **options: object) -> Agent:
    return Agent(role=role, goal="Sail.", backstory="Sailed before.", llm=LLM(model=f"{family}-{role}", **options))


def create_task(agent: Agent, **options: object) -> Task:
    return Task(description="Plan a voyage.", expected_output="A plan.", agent=agent, **options)


def create_crew(*tasks: Task, **options: object) -> Crew:
    return Crew(agents=[task.agent for task in tasks], tasks=list(tasks), **options)


@tool("ask_weather")
def ask_weather() -> str:
    """Ask for the weather."""
    with anthropic.Anthropic() as client:
        client.messages.count_tokens(model="claude-planner", messages=QUESTION)
    with openai.OpenAI() as client:
        client.chat.completions.create(model="gpt-planner", messages=QUESTION)
    return "calm"


planner = create_agent("planner")
planner.tools = [ask_weather]
sailors = [create_task(create_agent(f"sailor-{number}"), async_execution=True) for number in range(4)]
create_crew(
    create_task(planner),
    create_task(create_agent("writer", stream=True)),
    *sailors,
    create_task(create_agent("editor", "anthropic/claude")),
    name="newsroom",
).kickoff()


async def main() -> None:
    crews = [create_crew(create_task(create_agent(f"critic-{number}"))) for number in range(4)]
    await asyncio.gather(*(crew.akickoff() for crew in crews[:2]), *(crew.kickoff_async() for crew in crews[2:]))
    await create_agent("mate").kickoff_async("What now?")


asyncio.run(main())
create_agent("captain").kickoff("Sail.")
with openai.OpenAI() as client:
    client.chat.completions.create(model="gpt-nobody", messages=QUESTION)
