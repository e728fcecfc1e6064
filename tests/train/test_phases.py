"""What a phase trains, from what, and in which arithmetic; and what cannot be gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.train import state
from ofa_edge.train.options import TrainOptions
from ofa_edge.train.progress import Progress, finite
from ofa_edge.train.schedule import ONLY_LARGEST, Axes, Phase, Recipe
from ofa_edge.train.state import STATE_FILE
from ofa_edge.train.trainer import TEACHER_FILE, Trainer
from tests.families import SMALL_RESNET
from tests.train import runs
from tests.train.tiny import TINY, arrays_of, random_network


def one_phase(phase: Phase) -> Recipe:
    return Recipe("one", (phase,), batch_size=8)


def changed(trainer: Trainer) -> set[str]:
    """Names of the weights that a run moves."""
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run()
    return {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}


# -- what is trained ----------------------------------------------------------------------------
def test_the_kernel_phase_can_train_the_transforms_alone(tmp_path: Path) -> None:
    recipe = one_phase(Phase("kernel", 1, ("random", "smallest"), 0.5))
    moved = changed(runs.trainer(tmp_path, recipe=recipe, options=TrainOptions(seed=3, transforms_only=True)))
    assert {name.rpartition("_")[2] for name in moved} == {"7to5", "5to3"}


def test_a_head_phase_trains_the_classifier_alone(tmp_path: Path) -> None:
    phase = Phase("head", 1, ("largest",), 0.5, trainable="head")
    trainer = runs.trainer(tmp_path, recipe=one_phase(phase))
    assert changed(trainer) == {"logits.linear.weight", "logits.linear.bias"}
    assert not trainer.network.stem.conv.weight.requires_grad


def test_after_such_a_phase_all_weights_are_trained_again(tmp_path: Path) -> None:
    head = Phase("head", 1, ("largest",), 0.5, trainable="head")
    recipe = Recipe("two", (head, Phase("all", 1, ("largest",), 0.5)), batch_size=8)
    assert "stem.conv.weight" in changed(runs.trainer(tmp_path, recipe=recipe))


def test_transforms_of_a_space_without_elastic_kernels_are_no_phase(tmp_path: Path) -> None:
    stages = tuple(replace(stage, kernels=(3,)) for stage in TINY.stages)
    with pytest.raises(UsageError, match="has no kernel phase in space tiny"):
        runs.trainer(
            tmp_path,
            recipe=runs.PROGRESSIVE,
            options=TrainOptions(transforms_only=True),
            space=replace(TINY, stages=stages),
        )


def test_what_a_phase_does_not_open_is_not_touched(tmp_path: Path) -> None:
    """Kernels and depths of the largest net only: transforms stay as they were, and so does no decay creep in."""
    phase = Phase("largest", 1, ("largest", "random"), 0.5, axes=ONLY_LARGEST)
    moved = changed(runs.trainer(tmp_path, recipe=one_phase(phase)))
    assert not any(".transform_" in name for name in moved)
    opened = replace(phase, axes=Axes(None, 1, 1, 1), subnets=("smallest",))
    moved = changed(runs.trainer(tmp_path / "opened", recipe=one_phase(opened)))
    assert {name.rpartition("_")[2] for name in moved if ".transform_" in name} == {"7to5", "5to3"}


# -- the teacher --------------------------------------------------------------------------------
def test_the_teacher_is_the_network_at_the_end_of_the_first_phase(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(news: Progress) -> None:
        if news.phase == "kernel":
            raise Stop

    trainer = runs.trainer(tmp_path, stop, recipe=runs.PROGRESSIVE)
    with pytest.raises(Stop):
        trainer.run()
    then = torch.load(tmp_path / STATE_FILE, weights_only=True)["network"]
    teacher = trainer._teacher()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, then[name])


@pytest.mark.parametrize("damage", [None, b"garbage", b""])
def test_a_phase_that_lost_its_teacher_is_not_resumed_with_another(tmp_path: Path, damage: bytes | None) -> None:
    trainer = runs.trainer(tmp_path, recipe=runs.PROGRESSIVE)
    trainer.position.phase, trainer.position.step = 1, 1
    if damage is not None:
        (tmp_path / TEACHER_FILE).write_bytes(damage)
    with pytest.raises(BadFile, match=r"cannot read the teacher .*teacher\.safetensors"):
        trainer.run()


def test_channels_are_sorted_before_narrow_subnets_are_trained(tmp_path: Path) -> None:
    importance: list[torch.Tensor] = []

    def note(news: Progress) -> None:
        project = trainer.network.get_submodule("stages.1.0.project").weight
        importance.append(project.detach().abs().sum(dim=(0, 2, 3)))

    recipe = one_phase(Phase("expand", 1, ("random",), 1e-9, sort_groups=0))
    trainer = runs.trainer(tmp_path, note, recipe=recipe)
    assert (trainer.network.get_submodule("stages.1.0.project").weight.abs().sum(dim=(0, 2, 3)).diff() > 0).any()
    trainer.run()
    assert (importance[0].diff() <= 1e-5).all()


def test_elastic_widths_are_sorted_before_narrow_ones_are_trained(tmp_path: Path) -> None:
    moved: list[bool] = []

    def note(news: Progress) -> None:
        weight = trainer.network.get_submodule("stem.2.conv").weight
        moved.append(not torch.allclose(weight, before, atol=1e-3))

    recipe = one_phase(Phase("width", 1, ("random",), 1e-9, sort_widths=True))
    trainer = runs.trainer(tmp_path, note, recipe=recipe, space=SMALL_RESNET)
    before = trainer.network.get_submodule("stem.2.conv").weight.detach().clone()
    trainer.run()
    assert moved[0]


# -- arithmetic ---------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_the_same_with_weights_in_single(tmp_path: Path, precision: str) -> None:
    curves = []
    for name in ("fp32", precision):
        losses: list[float] = []
        trainer = runs.trainer(
            tmp_path / name,
            lambda news, losses=losses: losses.append(news.loss),
            recipe=one_phase(Phase("elastic", 2, ("largest", "smallest"), 0.2, distill="in-place")),
            options=TrainOptions(seed=3, precision=name, checkpoint_minutes=99),
        )
        trainer.run()
        curves.append(losses)
    assert {value.dtype for value in trainer.network.state_dict().values()} == {torch.float32}
    assert curves[0] != curves[1]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.05)


def test_auto_is_single_precision_on_a_cpu(tmp_path: Path) -> None:
    assert runs.trainer(tmp_path, options=TrainOptions(precision="auto")).identity()["precision"] == "fp32"


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_saved(tmp_path: Path) -> None:
    runs.trainer(tmp_path).save()
    before = (tmp_path / STATE_FILE).read_bytes()
    trainer = runs.trainer(tmp_path)
    with torch.no_grad():
        trainer.network.get_parameter("logits.linear.bias").fill_(float("nan"))
    with pytest.raises(OfaEdgeError, match="training diverged: the loss is nan in phase largest, epoch 1, step 1"):
        trainer.run()
    assert (tmp_path / STATE_FILE).read_bytes() == before
    assert finite(Progress("x", 0, 1, 1, 1, 2.0, 8)).loss == 2.0


# -- another head, another version --------------------------------------------------------------
def test_weights_of_other_classes_keep_all_but_the_classifier(tmp_path: Path) -> None:
    arrays = arrays_of(random_network(9, TINY.with_classes(7)))
    trainer = runs.trainer(tmp_path)
    drawn = trainer.network.get_parameter("logits.linear.weight").detach().clone()
    assert trainer.start_from(arrays) is True
    for name, value in trainer.network.state_dict().items():
        if not name.startswith("logits."):
            assert np.array_equal(value.numpy(), arrays[name])
    assert torch.equal(trainer.network.get_parameter("logits.linear.weight"), drawn)
    assert trainer.start_from(arrays_of(random_network(9))) is False


def test_a_classifier_of_other_features_is_no_new_head(tmp_path: Path) -> None:
    arrays = arrays_of(random_network(9)) | {"logits.linear.weight": np.zeros((7, 5), np.float32)}
    with pytest.raises(BadFile, match=r"wrong \['logits\.linear\.weight'\]"):
        runs.trainer(tmp_path).start_from(arrays)


def test_the_state_of_another_version_is_refused_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipes had other rules, whatever their names."""
    monkeypatch.setattr(state, "STATE_VERSION", 1)
    runs.trainer(tmp_path).save()
    monkeypatch.undo()
    with pytest.raises(BadFile, match="whose recipes had other rules"):
        runs.trainer(tmp_path).resume()


@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("rate_scale was 1.0, now 2.0", TrainOptions(seed=3, rate_scale=2.0)),
        ("subnets_scale was 1.0, now 2.0", TrainOptions(seed=3, subnets_scale=2.0)),
        ("batch_size was None, now 4", TrainOptions(seed=3, batch_size=4)),
        ("most_macs was None, now 5000000", TrainOptions(seed=3, most_macs=5_000_000)),
        ("precision was 'fp32', now 'bf16'", TrainOptions(seed=3, precision="bf16")),
        ("sync_bn was False, now True", TrainOptions(seed=3, sync_bn=True)),
    ],
)
def test_an_option_that_makes_it_another_run_is_named(tmp_path: Path, named: str, options: TrainOptions) -> None:
    runs.trainer(tmp_path).save()
    with pytest.raises(UsageError, match=f"is of another run: {named}"):
        runs.trainer(tmp_path, options=options).resume()


def test_a_space_of_the_same_name_that_is_another_is_refused(tmp_path: Path) -> None:
    runs.trainer(tmp_path).save()
    with pytest.raises(UsageError, match="is of another run: definition was"):
        runs.trainer(tmp_path, space=replace(TINY, bn_eps=0.1)).resume()


def test_how_many_threads_make_batches_is_no_property_of_the_run(tmp_path: Path) -> None:
    one, many = (runs.trainer(tmp_path / str(n), options=TrainOptions(seed=3, workers=n)) for n in (1, 4))
    assert one.identity() == many.identity()
    for trainer in (one, many):
        trainer.recipe = replace(trainer.recipe, phases=trainer.recipe.phases[:1])
        trainer.run()
    for name, value in one.network.state_dict().items():
        assert torch.equal(many.network.state_dict()[name], value)
