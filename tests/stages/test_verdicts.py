"""What follows from an attempt that ended badly."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ukd_dist.cluster_config import Resources
from ukd_dist.stages.verdicts import ATTEMPTS, DEATHS, Ended, judge

PLAIN = Resources(cpus=2)


@pytest.mark.parametrize("outcome", ["raised", "not_finite", "hung", "crashed"])
def test_what_fails_by_itself_has_three_attempts(outcome: str) -> None:
    past = [Ended(outcome)] * ATTEMPTS
    assert [judge(past[: n + 1], PLAIN).again for n in range(ATTEMPTS)] == [True, True, False]


def test_failures_of_different_classes_are_counted_together() -> None:
    assert not judge([Ended("raised"), Ended("hung"), Ended("not_finite")], PLAIN).again


def test_preemptions_and_losses_are_not_counted() -> None:
    past = [Ended("raised"), *[Ended("preempted"), Ended("lost", node_alive=False)] * 50, Ended("raised")]
    assert judge(past, PLAIN).again


def test_what_another_attempt_cannot_change_is_set_aside_at_once() -> None:
    assert not judge([Ended("refused")], PLAIN).again


def test_a_preempted_attempt_goes_on_at_once() -> None:
    verdict = judge([Ended("preempted")] * 9, PLAIN)
    assert (verdict.again, verdict.delay_seconds) == (True, 0.0)


@pytest.mark.parametrize("node_alive", [True, False])
def test_a_lost_attempt_goes_on_at_once_and_then_ever_later(node_alive: bool) -> None:
    past = [Ended("lost", node_alive=node_alive)] * (DEATHS - 1)
    delays = [judge(past[: n + 1], PLAIN).delay_seconds for n in range(len(past))]
    assert delays[0] == 0.0
    assert all(before < after for before, after in pairwise(delays))


def test_the_pause_before_another_attempt_has_a_limit() -> None:
    assert judge([Ended("lost", node_alive=False)] * 1000, PLAIN).delay_seconds == 300.0


def test_a_process_that_dies_again_and_again_on_living_nodes_is_set_aside() -> None:
    verdict = judge([Ended("lost")] * DEATHS, PLAIN)
    assert (verdict.again, verdict.outcome) == (False, "crashed")


@pytest.mark.parametrize(
    "other", [Ended("lost", progressed=True), Ended("lost", node_alive=False), Ended("preempted")]
)
def test_a_checkpoint_or_a_lost_node_between_deaths_speaks_for_the_process(other: Ended) -> None:
    past = [*[Ended("lost")] * (DEATHS - 1), other, *[Ended("lost")] * (DEATHS - 1)]
    assert judge(past, PLAIN).again


def test_memory_that_was_too_little_is_doubled_once() -> None:
    reserved = PLAIN.model_copy(update={"memory_gib": 4.0})
    first = judge([Ended("memory")], reserved)
    assert (first.again, first.resources.memory_gib) == (True, 8.0)
    assert not judge([Ended("memory"), Ended("lost"), Ended("memory")], first.resources).again


def test_where_no_memory_was_reserved_twice_of_what_was_used_is() -> None:
    assert judge([Ended("memory", peak_gib=3.0)], PLAIN).resources.memory_gib == 6.0


@pytest.mark.parametrize(("share", "larger"), [(0.25, 0.5), (0.5, 1.0), (0.75, 1.0)])
def test_a_share_of_a_gpu_is_doubled(share: float, larger: float) -> None:
    verdict = judge([Ended("memory", on_gpu=True)], PLAIN.model_copy(update={"gpus": share}))
    assert (verdict.again, verdict.resources.gpus) == (True, larger)


def test_a_whole_gpu_that_was_too_small_sets_aside() -> None:
    assert not judge([Ended("memory", on_gpu=True)], PLAIN.model_copy(update={"gpus": 1.0})).again
