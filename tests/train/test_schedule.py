"""Recipes, rates, samplers and losses: each does what its paper says."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import get_space
from ofa_edge.train.distill import label_loss, soft_loss, step_loss
from ofa_edge.train.sampling import step_archs
from ofa_edge.train.schedule import RECIPES, Axes, Phase, Recipe, fitted, get_recipe, learning_rate, scaled
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


@pytest.mark.parametrize(("steps", "rates"), [(1, [0.5]), (4, [0.25, 0.5, 0.5, 0.25]), (10, [0.1, 0.2, 0.3, 0.4, 0.5])])
def test_the_rate_rises_for_half_of_a_short_phase(steps: int, rates: list[float]) -> None:
    """Or few images would be trained on at a rate that never comes near its top, and never falls."""
    phase = Phase("x", 1, ("largest",), 0.5, warmup_steps=100)
    assert [learning_rate(phase, step, steps) for step in range(len(rates))] == pytest.approx(rates)


def test_a_linear_schedule_falls_in_a_line() -> None:
    phase = Phase("x", 1, ("random",), 0.5, schedule="linear", warmup_steps=2)
    assert [learning_rate(phase, step, 12) for step in range(2, 12)] == pytest.approx(np.linspace(0.5, 0.05, 10))


def test_the_rate_grows_with_the_batch_from_64_on() -> None:
    phase = Phase("x", 1, ("random",), 0.5)
    assert [learning_rate(phase, 0, 9, batch) for batch in (64, 128, 32)] == [0.5, 1.0, 0.25]


def test_a_warm_up_in_epochs_keeps_its_share_of_a_scaled_phase() -> None:
    recipe = Recipe("x", (Phase("x", 125, ("random",), 0.5, warmup_epochs=5),))
    (phase,) = scaled(recipe, epochs=0.2).phases
    assert phase.epochs == 25
    rates = [learning_rate(phase, step, 250) for step in range(250)]
    assert rates.index(max(rates)) + 1 == 10, "one epoch of 25"


# -- recipes ------------------------------------------------------------------------------------
def test_progressive_shrinking_has_the_figures_of_its_paper_and_its_script() -> None:
    """At their batch of 2048: 2.6 for the largest net; base_lr x 32 GPUs for the others."""
    space = get_space("ofa-mbv3-w1.0")
    phases = fitted(get_recipe("progressive"), space).phases
    found = [
        (phase.name, phase.epochs, phase.warmup_epochs, round(phase.learning_rate * 32, 4), len(phase.subnets))
        for phase in phases
    ]
    assert found == [
        ("largest", 180, 0, 2.6, 1),
        ("kernel", 125, 5, 0.96, 1),
        ("depth-1", 25, 0, 0.08, 2),
        ("depth-2", 125, 5, 0.24, 2),
        ("expand-1", 25, 0, 0.08, 4),
        ("expand-2", 125, 5, 0.24, 4),
    ]
    assert [phase.distill for phase in phases] == ["none"] + ["teacher"] * 5
    assert [phase.sort_groups for phase in phases] == [None, None, None, None, 0, 1]
    counts = [phase.axes.of(space).count() for phase in phases]
    assert counts == [1, 3**20, (3**3 + 3**4) ** 5, (3**2 + 3**3 + 3**4) ** 5, (6**2 + 6**3 + 6**4) ** 5, space.count()]


def test_a_resnet_has_no_kernel_phase_but_two_of_widths() -> None:
    phases = fitted(get_recipe("progressive"), get_space("ofa-resnet50d")).phases
    assert [p.name for p in phases] == ["largest", "depth-1", "depth-2", "expand-1", "expand-2", "width-1", "width-2"]
    assert [p.name for p in phases if p.sort_widths] == ["width-1"]


def test_an_axis_of_two_values_is_opened_by_the_long_phase_with_the_sorting_of_the_first() -> None:
    stages = tuple(replace(stage, kernels=(3, 5), expands=(2, 3)) for stage in TINY.stages)
    phases = fitted(get_recipe("progressive"), replace(TINY, stages=stages)).phases
    assert [(phase.name, phase.epochs, phase.sort_groups) for phase in phases] == [
        ("largest", 180, None),
        ("kernel", 125, None),
        ("depth-2", 125, None),
        ("expand-2", 125, 0),
    ]


def test_a_space_of_one_subnet_keeps_the_first_phase_alone() -> None:
    stages = tuple(replace(stage, kernels=(3,), expands=(2,), depths=(2,)) for stage in TINY.stages)
    alone = replace(TINY, stages=stages)
    assert [phase.name for phase in fitted(get_recipe("progressive"), alone).phases] == ["largest"]
    assert fitted(get_recipe("sandwich"), alone) == get_recipe("sandwich")


def test_the_control_differs_from_shrinking_in_what_it_draws_and_learns_from_alone() -> None:
    for space in (TINY, get_space("ofa-resnet50d")):
        shrinking, control = (fitted(get_recipe(name), space) for name in ("progressive", "no-shrinking"))
        assert [(p.name, p.epochs, p.learning_rate, p.warmup_epochs, len(p.subnets)) for p in shrinking.phases] == [
            (p.name, p.epochs, p.learning_rate, p.warmup_epochs, len(p.subnets)) for p in control.phases
        ]
        assert {name for phase in control.phases for name in phase.subnets} == {"any"}
        assert {(phase.distill, phase.sort_groups) for phase in control.phases} == {("none", None)}


def test_single_path_has_the_figures_of_its_paper() -> None:
    (phase,) = get_recipe("single-path").phases
    assert phase.learning_rate * 1024 / 64 == pytest.approx(0.5)
    assert (phase.epochs, phase.subnets, phase.schedule) == (120, ("random",), "linear")
    assert (get_recipe("single-path").weight_decay, get_recipe("single-path").label_smoothing) == (4e-5, 0.1)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_recipes_name_samplers_and_rules_that_there_are(recipe) -> None:
    for number, phase in enumerate(recipe.phases):
        assert step_archs(TINY, phase.subnets, 16, np.random.default_rng(0), phase.axes)
        assert phase.statistics in ("batch", "bank")
        assert phase.schedule in ("cosine", "linear")
        assert phase.trainable in ("all", "transforms", "head")
        assert phase.epochs > 0
        assert phase.distill in ("none", "in-place", "teacher")
        assert phase.distill != "in-place" or (len(phase.subnets) > 1 and phase.subnets[0] == "largest")
        assert phase.distill != "teacher" or number > 0, "the teacher is what the first phase ends with"


def test_scale_factors_leave_one_epoch_and_one_drawn_subnet_at_least() -> None:
    small = scaled(get_recipe("progressive"), epochs=0.001, rates=0.5, subnets=0.1)
    assert {phase.epochs for phase in small.phases} == {1}
    assert {len(phase.subnets) for phase in small.phases} == {1}
    assert small.phases[1].learning_rate == pytest.approx(1.5e-2)
    half = scaled(get_recipe("sandwich"), subnets=2)
    assert half.phases[1].subnets == ("largest", "smallest", "random", "random")
    assert scaled(get_recipe("progressive")) == get_recipe("progressive")


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


def test_random_subnets_are_of_the_phases_part_and_any_of_the_whole_space() -> None:
    rng, axes = np.random.default_rng(0), Axes(kernels=None, depths=1, expands=1)
    part = step_archs(TINY, ("random",) * 50, 16, rng, axes)
    assert {arch.depths for arch in part} == {TINY.largest().depths}
    assert {block.expand for arch in part for block in arch.stages[0]} == {3}
    assert {block.kernel for arch in part for block in arch.stages[0]} == {3, 5, 7}
    assert {arch.depths for arch in step_archs(TINY, ("any",) * 50, 16, rng, axes)} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert step_archs(TINY, ("smallest",), 16, rng, axes)[0].depths == TINY.largest().depths


def test_drawn_subnets_keep_a_limit_of_macs() -> None:
    rng = np.random.default_rng(0)
    macs = [cost(TINY.blocks(arch)).macs for arch in step_archs(TINY, ("random",) * 40, 32, rng)]
    limit = int(np.median(macs))
    drawn = step_archs(TINY, ("largest", *("random", "any") * 20), 32, rng, most_macs=limit)
    assert cost(TINY.blocks(drawn[0])).macs > limit, "what is not drawn has no limit"
    assert max(cost(TINY.blocks(arch)).macs for arch in drawn[1:]) <= limit
    with pytest.raises(InfeasibleBudget, match="not even the smallest"):
        step_archs(TINY, ("random",), 32, rng, most_macs=1000)


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


def test_a_teachers_output_is_added_to_the_labels_by_its_ratio() -> None:
    logits, labels, teacher = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)
    phase = Phase("x", 1, ("random",), 0.1, distill="teacher", kd_ratio=0.5)
    expected = 0.5 * soft_loss(logits, teacher) + label_loss(logits, labels, 0.1)
    torch.testing.assert_close(step_loss(phase, logits, labels, teacher, 0.1), expected)


def test_in_place_the_first_subnet_learns_the_labels_and_the_others_its_output_alone() -> None:
    logits, labels, teacher = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)
    phase = Phase("x", 1, ("largest", "random"), 0.1, distill="in-place")
    assert step_loss(phase, logits, labels, None, 0.1) == label_loss(logits, labels, 0.1)
    assert step_loss(phase, logits, labels, teacher, 0.1) == soft_loss(logits, teacher)
