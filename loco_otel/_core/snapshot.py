"""How a resource stands: what gauges and dumps are made from."""

from collections.abc import Iterator
from math import inf

from loco_otel._core.fairness import jains_index
from loco_otel._core.policies.base import Key, agent_of, key_of, tenant_of
from loco_otel._core.slot_pool import Pool
from loco_otel.events import AgentStanding, ResourceStanding


def standing(pool: Pool, now: float) -> ResourceStanding:
    """Tell how a resource stands.

    Who asks for other resources too counts at each of them. Ticks and alpha are those of the line that asks for this
    one alone; an agent's score is the best that it has in any line.
    """
    own = next((line for line in pool.lines if line.only is pool), pool.lines[0])
    return ResourceStanding(
        resource=pool.name,
        policy=own.policy.name,
        capacity=None if pool.capacity == inf else int(pool.capacity),
        active=len(pool.leases),
        waiting=sum(line.waiting for line in pool.lines),
        tick=own.tick,
        alpha=own.policy.alpha,
        fairness=_fairness(pool),
        agents=tuple(_agents(pool, now)),
    )


def _agents(pool: Pool, now: float) -> Iterator[AgentStanding]:
    active: dict[Key, int] = {}
    for ticket in pool.leases.values():
        key = key_of(ticket.request)
        active[key] = active.get(key, 0) + 1
    queued = {key for line in pool.lines for key in line.queues}
    queued |= {agent for line in pool.lines for agent, backlog in line.backlogs.items() if backlog}
    for key in sorted(active.keys() | queued, key=lambda key: (tenant_of(key), agent_of(key))):
        queues = [(line, line.queues[key]) for line in pool.lines if key in line.queues]
        ages = [line.tick - queue.birth() for line, queue in queues]
        weight = sum(queue.weight for _, queue in queues)
        for line in pool.lines:
            backlog = line.backlogs.get(agent_of(key))
            work = None if backlog is None or key in line.queues or tenant_of(key) else backlog.oldest()
            if backlog is not None and work is not None:
                # Queued, and nobody waits for it yet.
                ages.append(line.tick - work.birth)
                weight += backlog.weight
        waits = [now - head.waiting_since for _, queue in queues if (head := queue.head()) is not None]
        scores = [line.policy.score(key, line.tick) for line, queue in queues if queue.waiting]
        yield AgentStanding(
            agent=agent_of(key),
            waiting=sum(queue.waiting for _, queue in queues),
            active=active.get(key, 0),
            queue_weight=weight,
            queue_age=max(ages, default=0),
            oldest_wait=max(waits, default=0.0),
            score=max(scores, default=None),
            tenant=tenant_of(key) or None,
        )


def _fairness(pool: Pool) -> float:
    waiting = (queue.key for line in pool.lines for queue in line.queues.values() if queue.waiting)
    served: dict[Key, int] = dict.fromkeys(waiting, 0)
    for request in pool.served:
        key = key_of(request)
        served[key] = served.get(key, 0) + request.weight
    return jains_index(served.values())
