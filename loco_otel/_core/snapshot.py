"""How a resource stands: what gauges and dumps are made from."""

from collections.abc import Iterator
from math import inf

from loco_otel._core.fairness import jains_index
from loco_otel._core.policies.base import Key, agent_of, key_of, tenant_of
from loco_otel._core.slot_pool import SlotPool
from loco_otel.events import AgentSnapshot, ResourceSnapshot


def build_resource_snapshot(pool: SlotPool, now: float) -> ResourceSnapshot:
    """Tell how a resource stands.

    Who asks for other resources too counts at each of them. Ticks and alpha are those of the line that asks for this
    one alone; an agent's score is the best that it has in any line.
    """
    own = next((line for line in pool.queue_sets if line.single_pool is pool), pool.queue_sets[0])
    return ResourceSnapshot(
        resource=pool.name,
        policy=own.policy.name,
        capacity=None if pool.capacity == inf else int(pool.capacity),
        active=len(pool.leases),
        waiting=sum(line.waiting for line in pool.queue_sets),
        tick=own.tick,
        alpha=own.policy.alpha,
        fairness=_compute_fairness(pool),
        agents=tuple(_build_agent_snapshots(pool, now)),
        pause=max(0.0, pool.paused_until - now),
        pause_header=pool.pause_header if pool.paused_until > now else None,
    )


def _build_agent_snapshots(pool: SlotPool, now: float) -> Iterator[AgentSnapshot]:
    active: dict[Key, int] = {}
    for ticket in pool.leases.values():
        key = key_of(ticket.request)
        active[key] = active.get(key, 0) + 1
    queued = {key for line in pool.queue_sets for key in line.queues}
    queued |= {agent for line in pool.queue_sets for agent, backlog in line.backlogs.items() if backlog}
    for key in sorted(active.keys() | queued, key=lambda key: (tenant_of(key), agent_of(key))):
        queues = [(line, line.queues[key]) for line in pool.queue_sets if key in line.queues]
        ages = [line.tick - queue.find_birth_tick() for line, queue in queues]
        weight = sum(queue.weight for _, queue in queues)
        for line in pool.queue_sets:
            backlog = line.backlogs.get(agent_of(key))
            work = None if backlog is None or key in line.queues or tenant_of(key) else backlog.find_oldest_work()
            if backlog is not None and work is not None:
                # Queued, and nobody waits for it yet.
                ages.append(line.tick - work.birth)
                weight += backlog.weight
        waits = [now - head.waiting_since for _, queue in queues if (head := queue.find_head()) is not None]
        scores = [line.policy.compute_score(key, line.tick) for line, queue in queues if queue.waiting]
        yield AgentSnapshot(
            agent=agent_of(key),
            waiting=sum(queue.waiting for _, queue in queues),
            active=active.get(key, 0),
            queue_weight=weight,
            queue_age=max(ages, default=0),
            oldest_wait=max(waits, default=0.0),
            score=max(scores, default=None),
            tenant=tenant_of(key) or None,
        )


def _compute_fairness(pool: SlotPool) -> float:
    waiting = (queue.key for line in pool.queue_sets for queue in line.queues.values() if queue.waiting)
    served: dict[Key, int] = dict.fromkeys(waiting, 0)
    for key, weight in pool.recently_served:
        served[key] = served.get(key, 0) + weight
    return jains_index(served.values())
