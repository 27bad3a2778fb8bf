"""A step of the ledger under way, for which several threads may wait."""

from loco_otel._budgets.redis.pending import PendingStep


def test_wait_returns_false_before_the_end() -> None:
    step = PendingStep(("beat",), None, None, 0.0)
    assert not step.wait(0.0)
    assert not step.is_finished


def test_wait_returns_true_for_each_caller_after_the_end() -> None:
    step = PendingStep(("beat",), None, None, 0.0)
    step.finish()
    assert step.is_finished
    assert [step.wait(0.0) for _ in range(3)] == [True] * 3
