"""Training: a run that was killed goes on as if it had not been, and never as another run than it was."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from ofa_edge.errors import BadFile, LockHeld, OfaEdgeError, UsageError
from ofa_edge.supernet.batchnorm import recalibrate
from ofa_edge.train import batches
from ofa_edge.train.options import TrainOptions
from ofa_edge.train.progress import Progress
from ofa_edge.train.schedule import Phase, Recipe, learning_rate
from ofa_edge.train.state import STATE_FILE
from ofa_edge.train.trainer import BANK_FILE, TEACHER_FILE, Trainer
from ofa_edge.train.watch import top1
from ofa_edge.weights.bank import Bank
from tests.train import runs
from tests.train.tiny import TINY, arrays_of, random_network, splits

REPOSITORY = Path(__file__).resolve().parents[2]


class Killed(Exception):
    pass


class KillAt:
    """A report that ends the run after so many steps."""

    def __init__(self, steps: int):
        self.left = steps

    def __call__(self, progress: Progress) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """The run that nobody disturbs."""
    torch.set_num_threads(1)
    trainer = runs.trainer(tmp_path_factory.mktemp("whole"))
    trainer.run()
    return trainer


def assert_same(one: Trainer, two: Trainer) -> None:
    assert [(r.name, r.epochs, r.top1) for r in one.position.results] == [
        (r.name, r.epochs, r.top1) for r in two.position.results
    ]
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(two.network.state_dict()[name], value, rtol=1e-5, atol=1e-5)


# -- killed and resumed -------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 3, 5, 9, 11], ids=lambda steps: f"after step {steps}")
def test_a_run_that_was_killed_ends_as_the_undisturbed_one(tmp_path: Path, whole: Trainer, steps: int) -> None:
    with pytest.raises(Killed):
        runs.trainer(tmp_path, KillAt(steps)).run()
    again = runs.trainer(tmp_path)
    again.resume()
    assert (again.position.phase, again.position.epoch) != (0, 0) or again.position.step == steps
    again.run()
    assert_same(whole, again)


def test_a_run_that_was_killed_again_and_again_ends_as_the_undisturbed_one(tmp_path: Path, whole: Trainer) -> None:
    """Three steps at a time, of which the last is lost."""
    for attempt in range(20):
        trainer = runs.trainer(tmp_path, KillAt(3))
        if attempt:
            trainer.resume()
        try:
            trainer.run()
        except Killed:
            continue
        break
    assert attempt == 3
    assert_same(whole, trainer)


@pytest.mark.slow
def test_progressive_shrinking_killed_while_it_saves_ends_in_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL with half of the new state written, in the middle of a phase: the old state stands, and the run goes on
    from it, with its teacher and its sorted channels; all else being equal, one thread adds up in one order."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    undisturbed = runs.trainer(alone, recipe=runs.PROGRESSIVE)
    undisturbed.run()
    kill(killed, 10)
    part = killed / f"{STATE_FILE}.part"
    assert 0 < part.stat().st_size < (killed / STATE_FILE).stat().st_size
    again = runs.trainer(killed, recipe=runs.PROGRESSIVE)
    again.resume()
    assert (again.recipe.phases[again.position.phase].name, again.position.step) == ("depth-2", 1)
    again.run()
    assert [result.name for result in again.position.results] == [
        "largest",
        "kernel",
        "depth-2",
        "expand-1",
        "expand-2",
    ]
    assert (killed / TEACHER_FILE).read_bytes() == (alone / TEACHER_FILE).read_bytes()
    for name, value in undisturbed.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = runs.trainer(tmp_path)
    trainer.save()
    before = (tmp_path / STATE_FILE).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OfaEdgeError, match="cannot write the run's state to .*: No space left on device"):
        trainer.save()
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_two_runs_never_train_in_one_folder(tmp_path: Path) -> None:
    def another(progress: Progress) -> None:
        with pytest.raises(LockHeld, match="another process is writing to"):
            runs.trainer(tmp_path).run()
        raise Killed

    with pytest.raises(Killed):
        runs.trainer(tmp_path, another).run()
    with pytest.raises(Killed):
        runs.trainer(tmp_path, KillAt(1)).run()


def kill(out: Path, save: int) -> None:
    """Run progressive shrinking until SIGKILL in the middle of the given save."""
    command = [sys.executable, "-m", "tests.train.killed", str(out), str(save)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path, whole: Trainer) -> None:
    again = runs.trainer(whole.out, KillAt(0))
    again.resume()
    assert again.run() == whole.position.results
    assert_same(whole, again)


def test_without_a_state_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no checkpoint in"):
        runs.trainer(tmp_path).resume()


@pytest.mark.parametrize("length", [0, 10, 5000])
def test_a_damaged_state_is_refused(tmp_path: Path, whole: Trainer, length: int) -> None:
    (tmp_path / STATE_FILE).write_bytes((whole.out / STATE_FILE).read_bytes()[:length])
    with pytest.raises(BadFile, match=r"state\.pt is damaged"):
        runs.trainer(tmp_path).resume()


def test_a_state_is_never_unpickled_into_objects(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trace"),))

    torch.save({"identity": Hostile(), "position": {}}, tmp_path / STATE_FILE)
    with pytest.raises(BadFile, match="is damaged"):
        runs.trainer(tmp_path).resume()
    assert not (tmp_path / "trace").exists()


# -- resumed as another run ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("named", "other"),
    [
        ("seed was 3, now 4", {"options": TrainOptions(seed=4)}),
        ("epochs_scale was 1.0, now 2.0", {"options": TrainOptions(seed=3, epochs_scale=2.0)}),
        ("recipe was ", {"recipe": replace(runs.RECIPE, momentum=0.8)}),
        ("images was ", {"data": splits(24, heldout=13)}),
        ("space was 'tiny', now 'tinier'", {"space": replace(TINY, name="tinier")}),
    ],
)
def test_resuming_with_other_options_is_refused_naming_the_option(whole: Trainer, named: str, other) -> None:
    trainer = runs.trainer(whole.out, **other)
    with pytest.raises(UsageError, match=f"is of another run: {named}"):
        trainer.resume()


def test_resuming_from_other_initial_weights_is_refused(tmp_path: Path) -> None:
    """Or the checkpoint would name a source and a licence that are not its own."""
    first = runs.trainer(tmp_path)
    first.origin = "random"
    first.save()
    other = runs.trainer(tmp_path)
    other.origin = "a file"
    with pytest.raises(UsageError, match="from was 'random', now 'a file'"):
        other.resume()


def test_how_often_the_state_is_saved_is_no_property_of_the_run(whole: Trainer) -> None:
    runs.trainer(whole.out, options=TrainOptions(seed=3, checkpoint_minutes=99)).resume()


# -- the bank phase -----------------------------------------------------------------------------
def test_a_resumed_bank_phase_holds_the_bank_it_began_with(tmp_path: Path, whole: Trainer) -> None:
    with pytest.raises(Killed):
        runs.trainer(tmp_path, KillAt(10)).run()
    before = (tmp_path / BANK_FILE).read_bytes()
    again = runs.trainer(tmp_path)
    again.resume()
    assert (again.position.phase, again.position.step) == (2, 1)
    held = again._bank()
    assert (tmp_path / BANK_FILE).read_bytes() == before
    fitted = Bank.from_arrays(safetensors.numpy.load_file(whole.out / BANK_FILE))
    assert fitted is not None
    for name, pair in fitted.coefficients.items():
        for one, two in zip(pair, held.coefficients[name], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    # Fitted anew it would be another one: the weights have moved since.
    assert any(
        not np.allclose(again.fit_bank(runs.BANK_SUBNETS).coefficients[name][0], pair[0], rtol=1e-4, atol=1e-4)
        for name, pair in held.coefficients.items()
    )


@pytest.mark.parametrize("damage", [None, b"garbage", safetensors.numpy.save({"x": np.zeros(1)})])
def test_a_bank_phase_that_lost_its_bank_is_not_resumed_with_another(tmp_path: Path, damage: bytes | None) -> None:
    trainer = runs.trainer(tmp_path)
    trainer.position.phase, trainer.position.step = 2, 1
    if damage is not None:
        (tmp_path / BANK_FILE).write_bytes(damage)
    with pytest.raises(BadFile, match=r"bank\.safetensors"):
        trainer.run()


# -- learning -----------------------------------------------------------------------------------
def test_all_weights_stay_finite_and_every_one_is_trained(whole: Trainer) -> None:
    start = runs.trainer(whole.out).network.state_dict()
    for name, value in whole.network.state_dict().items():
        assert torch.isfinite(value).all(), name
        if ".transform_" not in name:  # of a small kernel that was perhaps never drawn
            assert not torch.equal(value, start[name]), name


def test_the_loss_falls_and_all_subnets_learn_what_is_easy(tmp_path: Path) -> None:
    recipe = Recipe(
        "easy",
        (Phase("elastic", 6, ("largest", "smallest", "random"), 0.4, warmup_steps=4, distill="in-place"),),
        batch_size=8,
    )
    losses: list[float] = []
    trainer = runs.trainer(
        tmp_path,
        lambda progress: losses.append(progress.loss),
        recipe=recipe,
        data=splits(48, heldout=30),
        options=TrainOptions(checkpoint_minutes=99),
    )
    (result,) = trainer.run()
    assert len(losses) == 36
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])
    assert min(result.top1.values()) > 0.9


def test_each_step_takes_its_rate_from_the_schedule(tmp_path: Path) -> None:
    rates: list[tuple[str, float]] = []
    trainer = runs.trainer(tmp_path, lambda progress: rates.append((progress.phase, _rate(trainer))))
    trainer.run()
    expected = [
        (phase.name, pytest.approx(learning_rate(phase, step, 3 * phase.epochs, 8)))
        for phase in runs.RECIPE.phases
        for step in range(3 * phase.epochs)
    ]
    assert rates == expected


def test_news_of_every_step_says_where_it_stands(tmp_path: Path) -> None:
    news: list[Progress] = []
    runs.trainer(tmp_path, news.append).run()
    assert [(n.phase, n.epoch, n.step) for n in news] == [
        (phase.name, epoch, step) for phase in runs.RECIPE.phases for epoch in range(phase.epochs) for step in (1, 2, 3)
    ]
    assert {(n.steps, n.batch_size) for n in news} == {(3, 8)}
    assert all(np.isfinite(n.loss) for n in news)


def test_batch_norm_biases_and_transforms_do_not_decay(tmp_path: Path) -> None:
    trainer = runs.trainer(tmp_path)
    decayed, plain = trainer.optimiser.param_groups
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (runs.RECIPE.weight_decay, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(
        names[id(p)].endswith(("conv.weight", "expand.weight", "depthwise.weight", "project.weight", "linear.weight"))
        for p in decayed["params"]
    )


# -- beginning ----------------------------------------------------------------------------------
def test_fewer_images_than_a_batch_are_refused_instead_of_training_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="7 training images are fewer than one batch of 8"):
        runs.trainer(tmp_path, data=splits(7))


def test_initial_weights_are_taken_and_transforms_may_be_left_out(tmp_path: Path) -> None:
    arrays = {name: value for name, value in arrays_of(random_network(9)).items() if ".transform_" not in name}
    trainer = runs.trainer(tmp_path)
    trainer.start_from(arrays)
    for name, value in trainer.network.state_dict().items():
        expected = arrays.get(name, np.eye(len(value), dtype=np.float32))
        assert np.array_equal(value.numpy(), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head.conv.weight": None}, r"missing \['head\.conv\.weight'\]"),
        ({"head.conv.weight": np.zeros((32, 23, 1, 1), np.float32)}, r"wrong \['head\.conv\.weight'\]"),
        ({"tail.conv.weight": np.zeros(1, np.float32)}, r"wrong \['tail\.conv\.weight'\]"),
    ],
)
def test_initial_weights_that_do_not_fit_are_named(tmp_path: Path, change, said: str) -> None:
    arrays = {name: value for name, value in (arrays_of(random_network(9)) | change).items() if value is not None}
    with pytest.raises(BadFile, match=f"do not fit tiny: .*{said}"):
        runs.trainer(tmp_path).start_from(arrays)


# -- the bank's loss ----------------------------------------------------------------------------
def test_what_the_bank_costs_is_recalibrated_minus_bank_in_points(whole: Trainer) -> None:
    fitted = whole.fit_bank(runs.BANK_SUBNETS)
    squashing = Bank(
        {name: (mean, np.full_like(log_std, 5.0)) for name, (mean, log_std) in fitted.coefficients.items()}
    )
    loss = whole.bank_loss(squashing)
    rng, points = np.random.default_rng([3, 8]), []
    for index in range(4):
        arch = TINY.sample(rng)
        images = batches.calibration_batches(whole.splits.train, 2000, arch.resolution, TINY.preprocess, index)
        recalibrated = top1(whole.network, whole.splits.heldout, arch, recalibrate(whole.network, arch, images))
        points.append(
            100 * (recalibrated - top1(whole.network, whole.splits.heldout, arch, squashing.statistics(TINY, arch)))
        )
    assert (loss["subnets"], loss["heldout_images"]) == (4, 12)
    assert loss["mean_points"] == pytest.approx(np.mean(points), abs=0.001)
    assert loss["worst_points"] == pytest.approx(np.max(points), abs=0.001)
    assert loss["worst_points"] > 10


def _rate(trainer: Trainer) -> float:
    (rate,) = {group["lr"] for group in trainer.optimiser.param_groups}
    return rate
