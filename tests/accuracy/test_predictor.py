"""The additive predictor finds what is additive, says how wrong it is, and its intervals cover as often as told."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from ofa_edge.accuracy.encoding import PLACES, encode
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.ridge import FOLDS, RIDGES, left_out_scores, principal
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable, AccuracyWriter
from ofa_edge.accuracy.validation import Rows, spearman
from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.spaces import OFA_LITE0

MEASURED = (96, 128, 160)


@lru_cache(maxsize=4096)
def part(stage, place, choice, depth, mixed):
    """Log-odds of one block; with `mixed` its place matters less in a deep stage, which no sum over places gives."""
    gain = 0.05 * (choice.expand - 3) + 0.03 * (choice.kernel - 3) + 0.02 * ((stage * 7 + place * 3) % 5)
    return gain * (3.0 / depth if mixed else 1.0)


def log_odds(arch, mixed=False):
    resolution = (arch.resolution - 96) / 64
    total = 0.6 + resolution - 0.3 * resolution**2
    for s, choice in enumerate(arch.stages):
        total += 0.25 * len(choice) ** 0.5
        total += sum(part(s, i, c, len(choice), mixed) for i, c in enumerate(choice))
    return total


def measured(archs, *, seed=0, mixed=False, n=1000, noise=0.35):
    """Right answers on the same n images for all: an image is hard for every subnet, with some luck for each."""
    rng = np.random.default_rng(seed)
    hardness = np.random.default_rng(99).logistic(size=n)
    return [int(np.sum(hardness + rng.normal(0, noise, n) < log_odds(arch, mixed))) for arch in archs]


def subnets(count, seed, resolutions=MEASURED):
    rng = np.random.default_rng(seed)
    drawn = [OFA_LITE0.sample(rng, 96).stages for _ in range(count)]
    return [Arch(r, stages) for stages in drawn for r in resolutions]


@pytest.fixture(scope="module")
def fitted():
    archs = subnets(300, seed=1)
    return AdditiveAccuracy.fit_measured(Rows.of(OFA_LITE0, archs, measured(archs), [1000] * len(archs)))


def test_predicts_subnets_it_has_not_seen(fitted):
    archs = subnets(100, seed=2)
    shares = np.array(measured(archs, seed=2)) / 1000
    predicted = np.array([fitted.estimate(arch).value for arch in archs])
    rmse = float(np.sqrt(np.mean((predicted - shares) ** 2)))
    assert rmse < 0.0035
    assert rmse == pytest.approx(fitted.quality.rmse, rel=0.3)
    assert spearman(predicted, shares) > 0.95
    assert fitted.quality.spearman == pytest.approx(spearman(predicted, shares), abs=0.03)


@pytest.mark.parametrize("resolution", [96, 112, 128, 144, 160])
def test_intervals_cover_as_often_as_they_say(fitted, resolution):
    archs = subnets(300, seed=resolution, resolutions=(resolution,))
    shares = np.array(measured(archs, seed=resolution)) / 1000
    for confidence in (0.95, 0.8):
        bounds = [fitted.estimate(arch, confidence) for arch in archs]
        covered = np.mean([b.low <= share <= b.high for b, share in zip(bounds, shares, strict=True)])
        assert confidence - 0.06 <= covered <= confidence + (1 - confidence) * 0.9
        assert all(0 <= b.low <= b.value <= b.high <= 1 for b in bounds)


def test_the_score_is_the_sum_that_search_adds_up(fitted):
    for arch in subnets(20, seed=3):
        total = fitted.offset(arch.resolution)
        for s, stage in enumerate(OFA_LITE0.stages):
            every = fitted.stage_scores(s, StageArrays.all(stage))
            total += every[list(stage.choices()).index(arch.stages[s])]
        assert fitted.score(arch) == pytest.approx(total, abs=1e-12)
        assert fitted.top1(total) == pytest.approx(fitted.estimate(arch).value, abs=1e-12)


def test_finds_that_a_depth_changes_its_blocks_where_it_does():
    """With effects that no sum over places gives, the richer terms are chosen and predict better than the plain."""
    archs = subnets(300, seed=4)
    plain = AdditiveAccuracy.fit_measured(Rows.of(OFA_LITE0, archs, measured(archs, noise=0.1), [1000] * len(archs)))
    mixed = AdditiveAccuracy.fit_measured(
        Rows.of(OFA_LITE0, archs, measured(archs, mixed=True, noise=0.1), [1000] * len(archs))
    )
    assert plain.quality.terms == "places"
    assert mixed.quality.terms == "depth x places"


@pytest.mark.parametrize("count", [60, 500])  # folds of fewer rows than columns, and of more
def test_left_out_errors_equal_those_of_real_refits(count):
    """The closed form against fitting ten times: same predictions of the rows left out."""
    archs = subnets(count, seed=5)
    rows = encode(OFA_LITE0, archs, MEASURED, PLACES)
    target = np.array([log_odds(arch) for arch in archs]) + np.random.default_rng(0).normal(0, 0.1, len(archs))
    folds = np.repeat(np.arange(count) % FOLDS, 3)
    found = left_out_scores(*principal(rows - rows.mean(axis=0)), target[:, None], folds)
    assert (rows.shape[1] < len(rows) // FOLDS) == (count == 500)
    for i, ridge in enumerate(RIDGES):
        for fold in range(FOLDS):
            # The intercept, a column of its own, is not shrunk; the columns stay centred as they were.
            x = np.column_stack([np.ones(len(rows)), rows - rows.mean(axis=0)])[folds != fold]
            penalty = ridge * np.diag([0.0] + [1.0] * rows.shape[1])
            weights = np.linalg.solve(x.T @ x + penalty, x.T @ target[folds != fold])
            left = np.column_stack([np.ones(len(rows)), rows - rows.mean(axis=0)])[folds == fold]
            assert found[i, folds == fold, 0] == pytest.approx(left @ weights, abs=1e-8)


def test_all_resolutions_of_a_subnet_are_left_out_together():
    """Rows that are copies of each other must not vouch for each other: pure noise is not predictable."""
    archs = subnets(100, seed=6)
    noise = np.repeat(np.random.default_rng(1).integers(600, 900, 100), 3)
    fitted = AdditiveAccuracy.fit_measured(Rows.of(OFA_LITE0, archs, noise, [1000] * len(archs)))
    assert fitted.quality.spearman < 0.1  # below 0: a left-out row pulls the mean of the others away from itself
    assert fitted.quality.rmse == pytest.approx(np.std(noise / 1000), rel=0.15)


def test_resolutions_between_measured_ones_are_interpolated_and_wider(fitted):
    assert fitted.offset(112) == pytest.approx((fitted.offset(96) + fitted.offset(128)) / 2)
    stages = OFA_LITE0.largest().stages
    widths = []
    for resolution in (128, 144):
        bounds = fitted.estimate(Arch(resolution, stages))
        widths.append(np.log(bounds.high / (1 - bounds.high)) - np.log(bounds.low / (1 - bounds.low)))
    assert widths[1] > widths[0]


@pytest.mark.parametrize("resolution", [80, 176])
def test_resolutions_outside_are_refused(fitted, resolution):
    with pytest.raises(UsageError, match=rf"resolution {resolution} lies outside the accuracy table's 96\.\.160"):
        fitted.offset(resolution)


def test_one_resolution_is_enough():
    archs = subnets(40, seed=7, resolutions=(128,))
    fitted = AdditiveAccuracy.fit_measured(Rows.of(OFA_LITE0, archs, measured(archs), [1000] * len(archs)))
    assert 0 < fitted.estimate(archs[0]).value < 1


def test_rows_in_another_order_give_the_same_model(fitted):
    archs = subnets(300, seed=1)
    correct = measured(archs)
    order = np.random.default_rng(0).permutation(len(archs))
    other = AdditiveAccuracy.fit_measured(
        Rows.of(OFA_LITE0, [archs[i] for i in order], [correct[i] for i in order], [1000] * len(archs))
    )
    assert other.quality.rmse == pytest.approx(fitted.quality.rmse, rel=1e-9)
    assert other.weights == pytest.approx(fitted.weights, abs=2e-9)


def test_none_and_all_right_stay_finite():
    archs = subnets(40, seed=8)
    correct = [0 if arch.resolution == 96 else 50 for arch in archs]
    fitted = AdditiveAccuracy.fit_measured(Rows.of(OFA_LITE0, archs, correct, [50] * len(archs)))
    assert fitted.estimate(archs[0]).value < 0.1
    assert fitted.estimate(archs[2]).value > 0.9


def test_few_subnets_are_refused_with_the_command_to_run():
    archs = subnets(19, seed=9)
    with pytest.raises(UsageError, match="19 different subnets are too few") as caught:
        AdditiveAccuracy.fit_measured(Rows.of(OFA_LITE0, archs, measured(archs), [1000] * len(archs)))
    assert "ofa-edge evaluate" in caught.value.hint


def test_a_table_is_fitted_as_its_rows_are(tmp_path, fitted):
    archs = subnets(300, seed=1)
    header = AccuracyHeader.of(OFA_LITE0, checkpoint="0" * 64, data="drawn", bn="bank", seed=0)
    with AccuracyWriter.open(tmp_path / "table.jsonl", OFA_LITE0, header) as writer:
        for arch, correct in zip(archs, measured(archs), strict=True):
            if arch not in writer:
                writer.add(arch, correct, 1000)
    table = AccuracyTable.read(tmp_path / "table.jsonl")
    assert len(table.frame) == len(archs)
    assert (AdditiveAccuracy.fit(OFA_LITE0, table).weights == fitted.weights).all()


def test_describes_itself_as_a_prediction(fitted):
    text = fitted.describe()
    assert text.startswith("top-1 on the accuracy table's images, predicted")
    assert "900 rows of 300 subnets" in text
    assert f"RMSE {100 * fitted.quality.rmse:.2f} points" in text


def test_spearman_shares_ranks_between_ties():
    # scipy.stats.spearmanr([1, 2, 2, 4, 5], [3, 1, 4, 4, 5]).statistic
    assert spearman(np.array([1, 2, 2, 4, 5]), np.array([3, 1, 4, 4, 5])) == pytest.approx(0.7631578947)
    assert spearman(np.array([1, 2, 3]), np.array([9, 8, 7])) == pytest.approx(-1)
    assert spearman(np.array([1, 1, 1]), np.array([9, 8, 7])) == 0.0
