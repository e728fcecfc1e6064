"""Recipes, rates, samplers and losses: each does what its paper says."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ofa_edge.errors import UsageError
from ofa_edge.train.distill import label_loss, soft_loss
from ofa_edge.train.sampling import SAMPLERS, step_archs
from ofa_edge.train.schedule import RECIPES, Phase, get_recipe, learning_rate
from tests.train.tiny import TINY


# -- the rate -----------------------------------------------------------------------------------
def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    phase = Phase("x", 1, ("largest",), 0.8, warmup_steps=4)
    rates = [learning_rate(phase, step, 104) for step in range(104)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == pytest.approx(0.8)
    assert rates[54] == pytest.approx(0.4)
    assert rates[29] == pytest.approx(0.4 * (1 + math.cos(math.pi / 4)))
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.001


def test_without_warm_up_the_rate_begins_at_its_top() -> None:
    phase = Phase("x", 1, ("largest",), 0.8)
    assert learning_rate(phase, 0, 10) == 0.8
    assert learning_rate(phase, 10, 10) == pytest.approx(0)


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_phase_shorter_than_its_warm_up_only_rises(steps: int) -> None:
    phase = Phase("x", 1, ("largest",), 0.5, warmup_steps=5)
    assert [learning_rate(phase, step, steps) for step in range(steps)] == pytest.approx(
        [0.1 * (step + 1) for step in range(steps)]
    )


# -- recipes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_recipes_name_samplers_and_statistics_that_there_are(recipe) -> None:
    for phase in recipe.phases:
        assert set(phase.subnets) <= set(SAMPLERS)
        assert phase.statistics in ("batch", "bank")
        assert phase.epochs > 0
        assert not phase.distill or len(phase.subnets) > 1
        assert not phase.distill or phase.subnets[0] == "largest", "the teacher"


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    assert get_recipe("sandwich") is RECIPES["sandwich"]
    with pytest.raises(UsageError, match="no recipe 'progresive'") as caught:
        get_recipe("progresive")
    assert "sandwich" in caught.value.hint


# -- samplers -----------------------------------------------------------------------------------
def test_a_step_runs_the_subnets_its_phase_names_at_one_resolution() -> None:
    archs = step_archs(TINY, ("largest", "smallest", "random", "random"), 24, np.random.default_rng(0))
    assert archs[0] == TINY.largest(24)
    assert archs[1] == TINY.smallest(24)
    assert archs[2] != archs[3]
    assert {arch.resolution for arch in archs} == {24}
    for arch in archs:
        TINY.check(arch)


def test_random_subnets_are_a_function_of_the_generator() -> None:
    one, two, other = (step_archs(TINY, ("random",) * 5, 16, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == two
    assert one != other


# -- losses -------------------------------------------------------------------------------------
def test_smoothed_labels_keep_their_share_of_the_target() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
    labels = torch.tensor([0, 1])
    target = torch.full((2, 3), 0.1 / 3)
    target[0, 0] += 0.9
    target[1, 1] += 0.9
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(label_loss(logits, labels, 0.1), expected)


def test_the_student_is_pulled_to_the_teacher_and_the_teacher_nowhere() -> None:
    teacher = torch.randn(4, 3, requires_grad=True)
    student = teacher.detach().clone().requires_grad_()
    soft_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, torch.zeros(4, 3), rtol=0, atol=1e-6)
    assert teacher.grad is None
    away = (teacher.detach() + torch.tensor([1.0, 0.0, 0.0])).requires_grad_()
    soft_loss(away, teacher).backward()
    assert away.grad is not None
    assert (away.grad[:, 0] > 0).all()
    assert soft_loss(away, teacher) > soft_loss(student, teacher)
