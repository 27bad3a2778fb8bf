"""What `loco-otel top` computes from pages: budgets that are shared or not, capacities, causes, restarts."""

import pytest

from loco_otel.cli.metrics_page import parse_page
from loco_otel.cli.top.cells import draw_bar
from loco_otel.cli.top.readings import Reading
from loco_otel.cli.top.state import build_state

_BUDGET = 'loco_budget_scope="agent",loco_budget_key="analyst",loco_budget_period="day",loco_budget_store'


def _read(*lines: str, fault: str | None = None, earlier: str | None = None) -> Reading:
    def parse(text: str) -> str:
        return "".join(f"# TYPE {line.split('{')[0]} gauge\n{line}\n" for line in text.splitlines())

    page = parse_page(parse("\n".join(lines)), "http://x/metrics")
    before = None if earlier is None else parse_page(parse(earlier), "http://x/metrics")
    return Reading("http://x/metrics", page, before, fault, 0.0, 0.0)


def _write_info(resource: str, policy: str) -> str:
    return f'loco_info{{loco_resource_name="{resource}",loco_policy="{policy}"}} 1'


def _write_budget(store: str, limit: float, spent: float) -> list[str]:
    return [
        f'loco_budget_limit_USD{{{_BUDGET}="{store}"}} {limit}',
        f'loco_budget_spent_USD{{{_BUDGET}="{store}"}} {spent}',
    ]


def test_budget_of_one_ledger_counts_once() -> None:
    (budget,) = build_state([_read(*_write_budget("ledger", 2, 1)), _read(*_write_budget("ledger", 2, 0.9))]).budgets
    assert (budget.limit, budget.spent, budget.used) == (2, 1, 0.5)


def test_budgets_in_memory_add_up() -> None:
    (budget,) = build_state([_read(*_write_budget("memory", 2, 1)), _read(*_write_budget("memory", 2, 0.5))]).budgets
    assert (budget.limit, budget.spent) == (4, 1.5)


def test_resource_unlimited_in_one_process_has_no_capacity() -> None:
    limited = _read(_write_info("llm", "load"), 'loco_resource_capacity{loco_resource_name="llm"} 2')
    (resource,) = build_state([limited, _read(_write_info("llm", "fair"))]).resources
    assert (resource.capacity, resource.policy) == (None, "fair, load")
    (resource,) = build_state([limited, limited]).resources
    assert resource.capacity == 4


@pytest.mark.parametrize(
    ("processes", "capacity"),
    [
        ([("remote", 4), ("remote", 4), ("remote", 4)], 4),
        ([("remote", 4), ("remote", 4), ("local", 1)], 5),
        ([(None, 2), (None, 2)], 4),
        ([("remote", 4), ("remote", None)], None),
    ],
)
def test_slots_of_a_shared_engine_count_once(
    processes: list[tuple[str | None, int | None]], capacity: int | None
) -> None:
    def read(mode: str | None, own: int | None) -> Reading:
        modes = [] if mode is None else ["remote", "local", "open", "closed"]
        lines = [f'loco_engine_mode{{loco_engine_mode="{it}"}} {int(it == mode)}' for it in modes]
        if own is not None:
            lines.append(f'loco_resource_capacity{{loco_resource_name="llm"}} {own}')
        return _read(_write_info("llm", "load"), *lines)

    (resource,) = build_state([read(*it) for it in processes]).resources
    assert resource.capacity == capacity


def test_causes_are_those_since_the_earlier_page() -> None:
    pair = 'loco_agent_id="analyst",loco_resource_name="llm"'
    waiting = f"loco_requests_waiting{{{pair}}} 1"
    slot = f'loco_wait_time_seconds_total{{{pair},loco_wait_cause="slot",loco_blame_agent="crawler"}}'
    pause = f'loco_wait_time_seconds_total{{{pair},loco_wait_cause="backoff"}}'
    (agent,) = build_state([_read(waiting, f"{slot} 100", f"{pause} 4", earlier=f"{slot} 99\n{pause} 1")]).agents
    assert agent.causes == [("the provider's pause", 0.75), ("crawler", 0.25)]
    (agent,) = build_state([_read(waiting, f"{slot} 1", f"{pause} 3", earlier=f"{slot} 99\n{pause} 50")]).agents
    assert agent.causes == [("the provider's pause", 0.75), ("crawler", 0.25)]


def test_process_that_does_not_answer_holds_nothing() -> None:
    lines = [
        _write_info("llm", "load"),
        'loco_requests_active{loco_agent_id="analyst",loco_resource_name="llm"} 2',
        'loco_spend_USD_total{loco_agent_id="analyst"} 3',
        'loco_wait_time_seconds_total{loco_agent_id="analyst",loco_resource_name="llm",loco_wait_cause="self"} 5',
    ]
    state = build_state([_read(*lines, fault="gone")])
    assert [(it.active, it.spend, it.waited) for it in state.agents] == [(0, 3, 5)]
    assert [(it.active, it.capacity) for it in state.resources] == [(0, None)]


def test_bar_is_never_wider_than_its_cell() -> None:
    assert [len(draw_bar(share, 8)) for share in (-1.0, 0.0, 0.01, 0.499, 0.999, 1.0, 7.0)] == [8] * 7
