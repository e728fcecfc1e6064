"""Several measurements of a block make one value whose interval holds; one measurement stays what it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ofa_edge.latency.judging.combine import combine, drift, widths

NO_SENTINELS = pd.DataFrame({"session": [], "at": [], "median": []}, dtype=float)


def rows(keys: np.ndarray, medians: np.ndarray, half: float = 0.01, **columns: object) -> pd.DataFrame:
    scale = {"min": 0.97, "p10": 0.98, "median": 1, "p90": 1.05, "low": 1 - half, "high": 1 + half, "mean": 1.01}
    frame = pd.DataFrame({"key": [f"k{k}" for k in keys], **{c: f * medians for c, f in scale.items()}})
    return frame.assign(**{"std": 0.01 * medians, "n": 20, "session": 0, "at": 0.0, **columns})


def quiet(frame: pd.DataFrame) -> np.ndarray:
    return np.zeros(len(frame), bool)


def by_key(found: pd.DataFrame, count: int) -> pd.DataFrame:
    """In the order of the keys' numbers."""
    return found.set_index("key").loc[[f"k{k}" for k in range(count)]]


def campaign(
    rng: np.random.Generator, count: int, rounds: int, *, process: float, row: float, levels: tuple[float, ...] = ()
) -> tuple[pd.DataFrame, np.ndarray]:
    """`rounds` over `count` blocks; `process` is what one does to a block, `row` the noise its interval tells of."""
    true = np.exp(rng.uniform(-3, 2, count))
    parts = []
    for r in range(rounds):
        luck = np.exp(process * rng.standard_normal(count) + row * rng.standard_normal(count))
        level = levels[r] if levels else 1.0
        parts.append(rows(np.arange(count), level * true * luck, 1.96 * row, round=r))
    return pd.concat(parts, ignore_index=True), true


def test_one_measurement_of_each_block_is_left_as_it_is() -> None:
    frame = rows(np.arange(5), np.arange(1.0, 6.0))
    found = combine(frame, quiet(frame), NO_SENTINELS)
    pd.testing.assert_frame_equal(found[list(frame.columns)], frame)
    assert set(found["rounds"]) == {1}


@pytest.mark.parametrize("rounds", [2, 3])
@pytest.mark.parametrize(("process", "row"), [(0.0, 0.01), (0.02, 0.01), (0.03, 0.002)])
def test_the_interval_covers_the_true_time_whatever_processes_do(rounds: int, process: float, row: float) -> None:
    frame, true = campaign(np.random.default_rng(rounds), 600, rounds, process=process, row=row)
    found = by_key(combine(frame, quiet(frame), NO_SENTINELS), len(true))
    level = np.median(found["median"] / true)
    covered = np.mean((found["low"] <= true * level) & (true * level <= found["high"]))
    assert 0.93 <= covered <= 0.995
    assert np.median(widths(found)) < 2.2 * np.hypot(process, row) / np.sqrt(rounds) * 1.96 / 1.5


def test_measurements_of_a_slow_minute_are_left_out() -> None:
    """A seventh of all is 20 % slow, in stretches, as on a shared server."""
    frame, true = campaign(np.random.default_rng(3), 300, 3, process=0.01, row=0.01)
    slow = (np.arange(len(frame)) // 10) % 7 == 0
    frame.loc[slow, ["min", "p10", "median", "p90", "low", "high", "mean", "std"]] *= 1.2
    found = by_key(combine(frame, quiet(frame), NO_SENTINELS), len(true))
    ratio = found["median"] / true
    assert np.abs(ratio / ratio.median() - 1).max() < 0.05
    assert 0.95 * slow.sum() <= found["slowed"].sum() <= slow.sum()
    assert (found["rounds"] + found["slowed"] == 3).all()


def test_a_block_whose_rounds_disagree_gets_the_wider_interval() -> None:
    frame, true = campaign(np.random.default_rng(0), 100, 2, process=0.01, row=0.005)
    frame.loc[(frame["key"] == "k7") & (frame["round"] == 1), ["min", "p10", "median", "p90", "low", "high"]] *= 1.045
    found = combine(frame, quiet(frame), NO_SENTINELS).set_index("key")
    wide = pd.Series(widths(found), found.index)
    assert wide["k7"] > 1.3 * wide.median()
    assert found.loc["k7", "low"] < true[7] < found.loc["k7", "high"]


def test_rounds_at_another_speed_are_brought_to_one_level_by_the_blocks_they_share() -> None:
    """Also those blocks that only one round has."""
    frame, true = campaign(np.random.default_rng(1), 200, 2, process=0.01, row=0.005, levels=(1.0, 1.2))
    frame = frame[(frame["round"] == 0) | (frame["key"].str[-1] != "3")]
    frame = frame[(frame["round"] == 1) | (frame["key"].str[-1] != "4")].reset_index(drop=True)
    found = combine(frame, quiet(frame), NO_SENTINELS).set_index("key")
    ratio = found["median"] / pd.Series(true, [f"k{i}" for i in range(200)])
    assert ratio.std() / ratio.mean() < 0.02
    early, late = ratio[[k for k in ratio.index if k[-1] == "3"]], ratio[[k for k in ratio.index if k[-1] == "4"]]
    assert early.mean() / late.mean() == pytest.approx(1, abs=0.01)


def test_without_blocks_in_common_the_sentinel_says_the_level() -> None:
    frame = rows(np.arange(10), np.ones(10), session=[0] * 5 + [1] * 5)
    frame.loc[5:, ["min", "p10", "median", "p90", "low", "high", "mean", "std"]] *= 1.5
    sentinels = pd.DataFrame({"session": [0] * 4 + [1] * 4, "at": [0.0, 1, 2, 3] * 2, "median": [2.0] * 4 + [3.0] * 4})
    found = combine(frame, quiet(frame), sentinels)
    np.testing.assert_allclose(found["median"], found["median"].iloc[0], rtol=1e-12)


def test_a_trend_is_removed_from_each_round_by_itself() -> None:
    """The machine gets 10 % slower in each round and is rested between them."""
    rng = np.random.default_rng(2)
    at = np.tile(np.linspace(0, 100, 40), 2)
    slow = 1 + 0.1 * at / 100
    order = [rng.permutation(40), rng.permutation(40)]
    true = np.linspace(1, 2, 40)
    keys = np.concatenate(order)
    frame = rows(keys, true[keys] * slow, at=at + np.repeat([0, 100], 40), round=np.repeat([0, 1], 40))
    times = np.tile(np.linspace(0, 100, 12), 2)
    sentinels = pd.DataFrame(
        {
            "session": 0,
            "round": np.repeat([0, 1], 12),
            "at": times + np.repeat([0, 100], 12),
            "median": 1 + times / 1000,
        }
    )
    found = combine(frame, quiet(frame), sentinels).set_index("key")["median"]
    ratio = found[[f"k{i}" for i in range(40)]].to_numpy() / true
    assert ratio.std() / ratio.mean() < 0.002
    assert len(drift(sentinels).trends) == 2


def test_disturbed_rounds_are_left_out_where_there_are_others() -> None:
    frame = rows(np.array([0, 0, 1, 1]), np.array([1.0, 9.0, 2.0, 3.0]), round=[0, 1, 0, 1])
    frame.loc[3, "high"] = 4.0
    found = combine(frame, np.array([False, True, True, True]), NO_SENTINELS)
    assert list(found["median"]) == [1.0, 2.0]
    assert list(found["disturbed"]) == [False, True]
    assert list(found["rounds"]) == [1, 1]
