"""Every kind of predictor finds what is there, covers as often as it says, and comes back from its file the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from ofa_edge.accuracy import family, mlp_training
from ofa_edge.accuracy.encoding import PLACES, encode
from ofa_edge.accuracy.mlp import MlpAccuracy
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.predictor import TERMS, AdditiveAccuracy
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable, AccuracyWriter
from ofa_edge.accuracy.validation import Rows, spearman
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.spaces import OFA_LITE0, SPACES

IMAGES = 10_000
KINDS = {"additive": AdditiveAccuracy, "pairwise": PairwiseAccuracy, "mlp": MlpAccuracy}


def share(arch):
    """Choices, and one pair of them across stages that no sum over stages gives."""
    total = 0.4 + (arch.resolution - 96) / 600 + 0.01 * sum(arch.depths)
    total += sum(0.004 * (c.expand - 3) + 0.003 * (c.kernel - 3) for stage in arch.stages for c in stage)
    return total + 0.012 * (len(arch.stages[2]) - 2) * (len(arch.stages[4]) - 2.5)


def rows_of(count, seed, resolutions=(96, 160)):
    rng = np.random.default_rng(seed)
    drawn = [OFA_LITE0.sample(rng) for _ in range(count)]
    archs = [arch.at(r) for arch in drawn for r in resolutions]
    noise = np.random.default_rng(seed + 1).normal(0, 0.002, len(archs))
    correct = [round(IMAGES * (share(arch) + error)) for arch, error in zip(archs, noise, strict=True)]
    return Rows.of(OFA_LITE0, archs, correct, [IMAGES] * len(archs))


ROWS, UNSEEN = rows_of(250, seed=1), rows_of(150, seed=5)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The rows as a table."""
    path = tmp_path_factory.mktemp("table") / "table.jsonl"
    header = AccuracyHeader.of(OFA_LITE0, checkpoint="0" * 64, data="drawn", bn="bank", seed=0)
    with AccuracyWriter.open(path, OFA_LITE0, header) as writer:
        for arch, correct in zip(ROWS.archs, ROWS.correct, strict=True):
            if arch not in writer:
                writer.add(arch, int(correct), IMAGES)
        writer.finish()
    return AccuracyTable.read(path)


@pytest.fixture(scope="module", params=KINDS)
def fitted(request, table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp_training, "STEPS", 50)
        return family.fit(request.param, OFA_LITE0, table, seed=3)


def rmse(predicted, rows):
    return float(np.sqrt(np.mean((predicted - rows.shares) ** 2)))


def test_predicts_subnets_it_has_not_seen_as_well_as_it_says(fitted):
    predicted = fitted.predictor.predict(UNSEEN.archs)
    assert spearman(predicted, UNSEEN.shares) > 0.93
    # Its figures are of fits on four fifths of the rows, so a little worse.
    assert 0.6 * fitted.validation.rmse < rmse(predicted, UNSEEN) < 1.2 * fitted.validation.rmse
    assert fitted.validation.spearman == pytest.approx(spearman(predicted, UNSEEN.shares), abs=0.02)
    assert (fitted.rows, fitted.subnets, fitted.validation.folds) == (500, 250, 5)


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_intervals_cover_as_often_as_they_say(fitted, confidence):
    value, low, high = fitted.predictor.intervals(UNSEEN.archs, confidence).T
    assert (low <= value).all()
    assert (value <= high).all()
    covered = np.mean((low <= UNSEEN.shares) & (UNSEEN.shares <= high))
    assert confidence - 0.08 <= covered <= min(1, confidence + 0.15)


def test_one_by_one_is_as_all_at_once(fitted):
    archs = UNSEEN.archs[:7]
    together = fitted.predictor.intervals(archs)
    alone = [fitted.predictor.intervals([arch])[0] for arch in archs]
    assert together == pytest.approx(np.array(alone), abs=1e-6)
    assert fitted.predictor.predict(archs) == pytest.approx(together[:, 0], abs=1e-12)
    assert len(fitted.predictor.intervals([])) == len(fitted.predictor.predict([])) == 0


def test_between_measured_sizes_it_interpolates_in_flops(fitted):
    arch = UNSEEN.archs[0]
    ends = [fitted.estimates([arch.at(r)])[0].value for r in (96, 160)]
    middle = fitted.estimates([arch.at(128)])[0]
    assert min(ends) < middle.value < max(ends)
    assert middle.low < middle.value < middle.high
    with pytest.raises(UsageError, match="resolution 177"):
        fitted.estimates([arch.at(177)])


def test_says_that_it_predicts_and_how_well(fitted):
    said = fitted.predictor.describe()
    assert said.startswith("top-1 on the accuracy table's images, predicted: ")
    assert "500 rows of 250 subnets; left-out RMSE" in said
    assert fitted.predictor.kind in KINDS


def test_comes_back_from_its_file_the_same(fitted, table, tmp_path):
    path = tmp_path / "predictor.safetensors"
    family.save(fitted, path)
    found = family.load(path)
    assert (found.validation, found.rows, found.subnets, found.seed) == (fitted.validation, 500, 250, 3)
    assert (found.table, found.checkpoint, found.data) == (table.sha256, "0" * 64, "drawn")
    assert found.predictor.kind == fitted.predictor.kind
    assert (found.predictor.intervals(UNSEEN.archs) == fitted.predictor.intervals(UNSEEN.archs)).all()
    assert found.predictor.describe() == fitted.predictor.describe()


def header_of(path):
    content = path.read_bytes()
    outer = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(outer["__metadata__"]["ofa-edge"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2.0"}, "its version is '2.0'"),
        ({"version": "1.1"}, "its version is '1.1'"),
        ({"schema": "selection"}, "does not say that it is one"),
        ({"kind": "forest"}, "kind"),
        ({"space": "ofa-mbv3-w1.0"}, "resolutions are not those"),
        ({"space": "no-such"}, "there is no space"),
        ({"resolutions": [160, 96]}, "rising"),
        ({"resolutions": [96]}, "shape"),
        ({"table": "../x"}, "table"),
        ({"more": 1}, "more"),
        ({"fields": {}}, "field"),
        ({"validation": {"folds": 5, "rmse": "small", "spearman": 1.0}}, "'rmse' is not a number"),
    ],
)
def test_a_file_with_another_header_is_refused(fitted, tmp_path, change, said):
    path = tmp_path / "predictor.safetensors"
    family.save(fitted, path)
    header = {**header_of(path), **change}
    arrays = safetensors.numpy.load(path.read_bytes())
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"ofa-edge": json.dumps(header)}))
    with pytest.raises(BadFile) as caught:
        family.load(path)
    assert said in caught.value.message
    assert "predictor fit" in caught.value.hint


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400, "true", "[]"])
def test_numbers_that_are_none_are_refused(fitted, tmp_path, number):
    path = tmp_path / "predictor.safetensors"
    family.save(fitted, path)
    arrays = safetensors.numpy.load(path.read_bytes())
    for field in ("intercept", "level", "base", "rmse", "link"):
        text = re.sub(f'"{field}": ?[^,}}]+', f'"{field}":{number}', json.dumps(header_of(path)))
        if text != json.dumps(header_of(path)):
            (tmp_path / "other").write_bytes(safetensors.numpy.save(arrays, metadata={"ofa-edge": text}))
            with pytest.raises(BadFile, match="other is not a predictor"):
                family.load(tmp_path / "other")


def test_a_file_of_numbers_that_give_no_prediction_is_refused(table, tmp_path):
    """Each part is of its type and shape, and all the same the interval is no number."""
    fitted = family.fit("additive", OFA_LITE0, table, seed=3)
    quality = replace(fitted.predictor.quality, subnets=1)
    forged = (
        replace(fitted.predictor, quality=quality),
        replace(fitted.predictor, mean_leverage=-5.0),
        replace(fitted.predictor, weights=np.full(fitted.predictor.weights.shape, 1e308)),
    )
    for predictor in forged:
        family.save(replace(fitted, predictor=predictor), tmp_path / "forged")
        with pytest.raises(BadFile, match="give no prediction"):
            family.load(tmp_path / "forged").estimates(UNSEEN.archs[:2])


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "nan", "type"])
def test_a_file_with_other_arrays_is_refused(fitted, tmp_path, change):
    path = tmp_path / "predictor.safetensors"
    family.save(fitted, path)
    header, arrays = header_of(path), safetensors.numpy.load(path.read_bytes())
    name = sorted(arrays)[0]
    if change == "missing":
        del arrays[name]
    elif change == "extra":
        arrays["more"] = arrays[name]
    elif change == "shape":
        arrays[name] = np.concatenate([arrays[name], arrays[name][:1]])
    elif change == "nan":
        arrays[name] = np.full_like(arrays[name], np.nan)
    else:
        arrays[name] = arrays[name].astype(np.float16)
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"ofa-edge": json.dumps(header)}))
    with pytest.raises(BadFile, match="is not a predictor of this version"):
        family.load(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04N.", safetensors.numpy.save({"a": np.zeros(1)})])
def test_what_is_no_predictor_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadFile, match="is not a predictor"):
        family.load(tmp_path / "x")
    with pytest.raises(UsageError, match="cannot read"):
        family.load(tmp_path / "y")


def test_a_network_predicts_without_torch(tmp_path, table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp_training, "STEPS", 4)
        fitted = family.fit("mlp", OFA_LITE0, table)
    family.save(fitted, tmp_path / "x")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from ofa_edge.accuracy import family; from ofa_edge.space.spaces import OFA_LITE0\n"
        "found = family.load(sys.argv[1]); print(found.predictor.predict([OFA_LITE0.largest(160)])[0])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(fitted.predictor.predict([OFA_LITE0.largest(160)])[0], abs=1e-6)


# -- what is each kind's own --------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_model(table, kind, monkeypatch):
    monkeypatch.setattr(mlp_training, "STEPS", 4)
    first, again = (family.fit(kind, OFA_LITE0, table, seed=1) for _ in range(2))
    assert (first.predictor.predict(UNSEEN.archs) == again.predictor.predict(UNSEEN.archs)).all()
    assert first.validation == again.validation


def test_pairs_see_what_no_sum_over_stages_can():
    additive, pairwise = (found.fit_measured(ROWS) for found in (AdditiveAccuracy, PairwiseAccuracy))
    assert pairwise.quality.rmse < 0.8 * additive.quality.rmse
    assert rmse(pairwise.predict(UNSEEN.archs), UNSEEN) < 0.8 * rmse(additive.predict(UNSEEN.archs), UNSEEN)


def test_the_dual_form_is_ridge_over_all_products():
    """The same predictions as from the products of every two columns, written out."""
    few = rows_of(30, seed=9)
    fitted = PairwiseAccuracy.fit_measured(few)

    def products(archs):
        x = encode(OFA_LITE0, archs, few.resolutions, PLACES) - fitted.rows.mean(axis=0)
        pairs = np.einsum("ni,nj->nij", x, x).reshape(len(x), -1)
        return np.concatenate([x, np.sqrt(fitted.balance) * pairs], axis=1)

    columns = products(few.archs)
    centred = columns - columns.mean(axis=0)
    link = fitted.quality.link
    score = few.shares if link == "linear" else np.log(few.shares / (1 - few.shares))
    # Woodbury: weights = X' (X X' + ridge)^-1 y, of the very columns.
    weights = centred.T @ np.linalg.solve(
        centred @ centred.T + fitted.quality.ridge * np.eye(len(few)), score - score.mean()
    )
    expected = score.mean() + (products(UNSEEN.archs) - columns.mean(axis=0)) @ weights
    if link == "log-odds":
        expected = 1 / (1 + np.exp(-expected))
    assert fitted.predict(UNSEEN.archs) == pytest.approx(np.clip(expected, 0, 1), abs=1e-9)


def test_a_sum_has_terms_for_widths_and_stem_too():
    space = SPACES["ofa-resnet50d"]
    rng = np.random.default_rng(0)
    archs = [space.sample(rng, 224) for _ in range(200)]
    shares = [0.6 + sum(arch.widths) / 50_000 + 0.01 * arch.stem_depth + 0.002 * sum(arch.depths) for arch in archs]
    fitted = AdditiveAccuracy.fit_measured(
        Rows.of(space, archs, [round(1e6 * s) for s in shares], [1_000_000] * len(archs))
    )
    assert fitted.quality.rmse < 0.001
    scores = [fitted.score(arch) for arch in archs]
    assert fitted.predict(archs) == pytest.approx([fitted.top1(score) for score in scores], abs=1e-9)
    assert fitted.greatest_score([224]) >= max(scores)
    assert fitted.score(space.largest(224)) == pytest.approx(fitted.greatest_score([224]), rel=0.02)


def test_more_rows_than_the_dual_form_can_are_refused_at_once(table, monkeypatch):
    monkeypatch.setattr("ofa_edge.accuracy.pairwise.MAX_ROWS", 499)
    with pytest.raises(UsageError, match="at most 499 rows, the table has 500") as caught:
        family.fit("pairwise", OFA_LITE0, table)
    assert "--kind additive or mlp" in caught.value.hint
    with pytest.raises(UsageError, match="there is no predictor 'forest'"):
        family.fit("forest", OFA_LITE0, table)


@pytest.mark.parametrize("terms", TERMS)
def test_the_greatest_score_is_that_of_the_best_choices(terms):
    fitted = AdditiveAccuracy.fit_measured(ROWS)
    p = encode(OFA_LITE0, [OFA_LITE0.smallest()], fitted.resolutions, terms).shape[1]
    weights = np.random.default_rng(0).standard_normal(p)
    fitted = replace(fitted, quality=replace(fitted.quality, terms=terms), mean=np.zeros(p), weights=weights)
    best = [fitted.stage_scores(s, StageArrays.all(stage)).max() for s, stage in enumerate(OFA_LITE0.stages)]
    offset = max(map(fitted.offset, fitted.resolutions))
    assert fitted.greatest_score(fitted.resolutions) == pytest.approx(offset + sum(best))


def test_the_greatest_score_enumerates_no_stage():
    """A stage of 7^12 choices fits in no memory; strategy random, which is advised for it, must not list them."""
    stage = replace(OFA_LITE0.stages[0], depths=(12,), kernels=(3, 5, 7, 9, 11, 13, 15))
    space = replace(OFA_LITE0, name="deep", stages=(stage,))
    rng = np.random.default_rng(0)
    archs = [space.sample(rng, 96) for _ in range(30)]
    fitted = AdditiveAccuracy.fit_measured(Rows.of(space, archs, rng.integers(60, 90, 30), [100] * 30))
    assert fitted.greatest_score([96]) >= max(map(fitted.score, archs))
