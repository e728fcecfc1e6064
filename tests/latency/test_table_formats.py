"""Tables of others come in as they are and go out as they came; what is no table is refused by file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_edge.cli import app
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.latency.conditions import UNKNOWN
from ofa_edge.latency.exchange import columns, exports, foreign_keys, formats, yaml_tables
from ofa_edge.latency.exchange.foreign_keys import OFA, PROXYLESS
from ofa_edge.latency.exchange.yaml_tables import Entry
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space import codecs
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import OFA_LITE0, OFA_MBV3_W12, OFA_PROXYLESS_W13, OFA_RESNET50D
from tests.latency.helpers import device_for, profile, task

FROZEN = Path(__file__).parents[1] / "formats" / "latency-table-1.0.jsonl"
NOTE10 = Path(__file__).parents[3] / "shared" / "data" / "tables" / "note10_ofa_mbv3_w1.2"


def made(space: Space, resolution: int, format: str, seed: int = 0) -> dict[str, Entry]:
    """A whole file of random times."""
    rng = np.random.default_rng(seed + resolution)
    return {
        key: Entry(float(rng.lognormal(-1, 1)), int(rng.integers(2, 500)), float(rng.uniform(0, 0.1)))
        for key in foreign_keys.keys(space, resolution, format)
    }


def write(folder: Path, space: Space, format: str, *resolutions: int) -> list[Path]:
    paths = []
    for size in resolutions:
        paths.append(folder / f"{size}_lookup_table.yaml")
        paths[-1].write_text(yaml_tables.text(made(space, size, format), variance=format == PROXYLESS))
    return paths


@pytest.fixture
def note10() -> list[Path]:
    if not NOTE10.is_dir():
        pytest.skip("the Note10 tables are not here: ../shared/data/tables")
    return sorted(NOTE10.glob("*.yaml"))


# -- the Note10 tables ----------------------------------------------------------------------------
def test_the_note10_tables_read_whole_and_are_written_again_byte_by_byte(tmp_path: Path, note10: list[Path]) -> None:
    found = formats.import_yaml(note10, tmp_path / "t.jsonl", said={"device_model": "Note10"})
    assert (found.rows, found.missing, found.left_out, found.ignored) == (17 * 96, 0, (), ())
    assert (found.table.header.space, len(found.table.blocks)) == ("ofa-mbv3-w1.2", 870)
    assert found.table.header.resolutions == list(range(160, 225, 4))
    written = exports.write_yaml(found.table, OFA, tmp_path / "out")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in note10]


def test_a_prediction_is_the_sum_that_the_reference_makes_of_the_same_file(tmp_path: Path, note10: list[Path]) -> None:
    """By the reference implementation's own code, whose `yaml.load` lacks the Loader that PyYAML wants since 6."""
    import yaml

    from tests import reference_ofa

    reference = reference_ofa.module("nas.efficiency_predictor.latency_lookup_table").MBv3LatencyTable
    model = model_of(formats.import_yaml(note10, tmp_path / "t.jsonl").table)
    rng = np.random.default_rng(3)
    for path in note10:
        table = reference.__new__(reference)
        table.lut = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        resolution = int(path.name[:3])
        for _ in range(5):
            arch = model.space.sample(rng, resolution)
            (prediction,) = model.predict([arch])
            assert prediction.missing == ()
            assert prediction.latency is not None
            expected = table.predict_network_latency_given_config(config(model.space, arch), resolution)
            assert prediction.latency.value == pytest.approx(expected, rel=1e-12)
            assert (prediction.latency.low, prediction.latency.high) == (None, None)


def config(space: Space, arch: Any) -> dict[str, Any]:
    """A subnet as the reference implementation's configs describe it."""
    stem, first, *stages, head, _, features, logits = space.blocks(arch)
    blocks = [
        {
            "mobile_inverted_conv": {
                "in_channels": b.in_channels, "out_channels": b.out_channels, "mid_channels": b.mid_channels,
                "kernel_size": b.kernel, "stride": b.stride, "use_se": b.se, "act_func": b.activation,
            },
            "shortcut": {} if b.skip else None,
        }
        for b in (first, *stages)
    ]  # fmt: skip
    widths = {"final_expand_layer": head, "feature_mix_layer": features}
    return {
        "first_conv": {"out_channels": stem.out_channels},
        "blocks": blocks,
        **{n: {"in_channels": b.in_channels, "out_channels": b.out_channels} for n, b in widths.items()},
        "classifier": {"in_features": logits.in_channels, "out_features": logits.out_channels},
    }


def test_an_imported_table_is_searched_within_its_budget(tmp_path: Path) -> None:
    """A block alone is the mean over resolutions, a network its own file's sum: the margin holds the difference."""
    paths = write(tmp_path, OFA_LITE0, OFA, 96, 128)
    model = model_of(formats.import_yaml(paths, tmp_path / "t.jsonl", space=OFA_LITE0).table)
    margin = model.margin()
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        blocks = model.space.blocks(model.space.sample(rng, int(rng.choice([96, 128]))))
        ratios.append(model.estimate(blocks).value / sum(map(model.block_ms, blocks)))
    assert margin > 0
    assert np.mean(np.array(ratios) <= 1 + margin) > 0.95


# -- ProxylessNAS ---------------------------------------------------------------------------------
def test_proxyless_keys_are_those_its_tables_have() -> None:
    found = foreign_keys.keys(OFA_PROXYLESS_W13, 224, PROXYLESS)
    names = set(found)
    assert "Conv-input:224x224x3-output:112x112x40" in names
    assert "expanded_conv-input:112x112x40-output:112x112x24-expand:1-kernel:3-stride:1-idskip:0" in names
    assert "expanded_conv-input:14x14x104-output:14x14x104-expand:6-kernel:7-stride:1-idskip:1" in names
    assert "Logits-input:7x7x1664-output:1000" in names
    assert not [name for name in names if name.startswith("AvgPool2D")]
    assert sum(share for _, share in found["Logits-input:7x7x1664-output:1000"]) == 1


def test_a_proxyless_table_predicts_what_the_reference_does_and_goes_out_as_it_came(tmp_path: Path) -> None:
    from tests import reference_ofa

    reference = reference_ofa.module("nas.efficiency_predictor.latency_lookup_table").ProxylessNASLatencyTable
    paths = write(tmp_path, OFA_PROXYLESS_W13, PROXYLESS, 160, 192)
    found = formats.import_yaml(paths, tmp_path / "t.jsonl")
    assert found.table.header.space == "ofa-proxyless-w1.3"
    model = model_of(found.table)
    rng = np.random.default_rng(5)
    for size in (160, 192):
        table = reference.__new__(reference)
        table.lut = {key: {"mean": e.mean} for key, e in made(OFA_PROXYLESS_W13, size, PROXYLESS).items()}
        arch = model.space.sample(rng, size)
        stem, first, *stages, head, _, logits = model.space.blocks(arch)
        ratios = [1, *(choice.expand for stage in arch.stages for choice in stage)]
        value = table.predict_network_latency_given_config(
            {
                "first_conv": {"out_channels": stem.out_channels},
                "blocks": [
                    {
                        "conv": {
                            "in_channels": b.in_channels, "out_channels": b.out_channels, "expand_ratio": ratio,
                            "kernel_size": b.kernel, "stride": b.stride,
                        },
                        "shortcut": {} if b.skip else None,
                    }
                    for b, ratio in zip((first, *stages), ratios, strict=True)
                ],
                "feature_mix_layer": {"in_channels": head.in_channels, "out_channels": head.out_channels},
                "classifier": {"in_features": logits.in_channels, "out_features": logits.out_channels},
            },
            size,
        )  # fmt: skip
        (prediction,) = model.predict([arch])
        assert prediction.latency is not None
        assert prediction.latency.value == pytest.approx(value, rel=1e-12)
    for path, before in zip(exports.write_yaml(found.table, PROXYLESS, tmp_path / "out"), paths, strict=True):
        again, was = yaml_tables.read(path).rows, yaml_tables.read(before).rows
        assert again.keys() == was.keys()
        for key, entry in again.items():
            assert entry.mean == pytest.approx(was[key].mean, rel=1e-12)
            assert entry.count == was[key].count
            assert entry.std == pytest.approx(was[key].std, rel=1e-9)


# -- what an import claims ------------------------------------------------------------------------
def test_nothing_is_claimed_that_the_files_do_not_say(tmp_path: Path) -> None:
    (path,) = write(tmp_path, OFA_LITE0, OFA, 96)
    rows = dict(yaml_tables.read(path).rows)
    first, second, third, *_ = rows
    rows |= {first: Entry(1.5), second: Entry(2.5, 10), third: Entry(3.5, 1, 0.1)}
    path.write_text(yaml_tables.text(rows))
    found = formats.import_yaml([path], tmp_path / "t.jsonl", space=OFA_LITE0, said={"threads": 2}).table
    conditions = found.conditions.model_dump()
    assert conditions.pop("threads") == 2
    assert set(conditions.values()) == {UNKNOWN}
    keys = foreign_keys.keys(OFA_LITE0, 96, OFA)
    for name in (first, second, third):  # the interval needs n >= 2 and std
        row = found.blocks.loc[keys[name][0].block.key]
        assert row["median"] == row["mean"] == rows[name].mean
        assert math.isnan(row["low"])
        assert math.isnan(row["min"])
    rest = found.blocks.drop([keys[name][0].block.key for name in (first, second, third)])
    assert (rest["low"] < rest["median"]).all()
    imported = found.header.provenance.model_extra["imported"]  # type: ignore[index]
    assert imported["statistic"] == "mean"
    assert [len(file["sha256"]) for file in imported["files"]] == [64]
    assert found.networks.empty


def test_a_file_with_rows_beyond_the_space_is_read_without_them(tmp_path: Path) -> None:
    (path,) = write(tmp_path, OFA_LITE0, OFA, 96)
    strange = "expanded_conv-input:48x48x32-output:48x48x16-expand:32-kernel:7-stride:1-idskip:0-se:0-hs:0"
    path.write_text(path.read_text() + f"{strange}:\n  mean: 1.0\n")
    assert formats.import_yaml([path], tmp_path / "t.jsonl", space=OFA_LITE0).left_out == (strange,)


def test_a_file_without_some_blocks_says_how_many_and_they_are_estimated(tmp_path: Path) -> None:
    paths = write(tmp_path, OFA_LITE0, OFA, 96, 112)
    rows = dict(yaml_tables.read(paths[0]).rows)
    lost = next(key for key in rows if key.startswith("expanded_conv-input:24x24x24"))
    del rows[lost]
    paths[0].write_text(yaml_tables.text(rows))
    found = formats.import_yaml(paths, tmp_path / "t.jsonl", space=OFA_LITE0)
    assert found.missing == 1
    with pytest.raises(BadFile, match="no measurement of 1 of the blocks that ofa-yaml needs: expanded_conv-input:24x"):
        exports.yaml_files(found.table, OFA)


def test_a_file_of_one_resolution_may_lack_its_stem_when_its_name_or_a_person_says_which(tmp_path: Path) -> None:
    (path,) = write(tmp_path, OFA_LITE0, OFA, 96)
    rows = {key: entry for key, entry in yaml_tables.read(path).rows.items() if not key.startswith("Conv-")}
    path.write_text(yaml_tables.text(rows))
    found = formats.import_yaml([path], tmp_path / "t.jsonl", space=OFA_LITE0)
    assert (found.table.header.resolutions, found.missing) == ([96], 1)
    bare = path.rename(tmp_path / "table.yaml")
    with pytest.raises(UsageError, match="does not say of which resolution"):
        formats.import_yaml([bare], tmp_path / "u.jsonl", space=OFA_LITE0)
    again = formats.import_yaml([bare], tmp_path / "u.jsonl", space=OFA_LITE0, resolutions=[96])
    assert again.table.contents.of("given") == found.table.contents.of("given")


numbers = st.floats(1e-6, 1e6, allow_nan=False)
entries = st.builds(Entry, numbers, st.none() | st.integers(1, 10**6), st.none() | st.floats(0, 1e3))


@given(
    st.dictionaries(st.from_regex(r"[A-Za-z]\w{0,9}-input:[0-9]{1,3}x1x1-output:[0-9]{1,4}", fullmatch=True), entries)
)
def test_a_yaml_table_reads_back_as_it_was_written(tmp_path_factory: Any, rows: dict[str, Entry]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "t.yaml"
    path.write_text(yaml_tables.text(rows))
    if rows:
        assert yaml_tables.read(path).rows == rows
    else:
        with pytest.raises(BadFile):
            yaml_tables.read(path)


# -- our own tables -------------------------------------------------------------------------------
def test_a_measured_table_goes_out_with_its_means_and_comes_in_again(tmp_path: Path) -> None:
    work = task()
    table = profile(tmp_path / "t.jsonl", device_for(work), work).table
    (path,) = exports.write_yaml(table, OFA, tmp_path / "96.yaml")
    again = formats.import_yaml([path], tmp_path / "u.jsonl", space=work.space).table
    assert (again.blocks["mean"] == table.blocks["mean"].loc[again.blocks.index]).all()
    assert (again.blocks["n"] == table.blocks["n"].loc[again.blocks.index]).all()


@pytest.mark.parametrize("format", [columns.CSV, columns.PARQUET])
def test_columns_hold_all_figures_and_the_conditions(tmp_path: Path, format: str) -> None:
    if format == columns.PARQUET:
        pytest.importorskip("pyarrow")
    table = LatencyTable.read(FROZEN)
    columns.write(table, format, tmp_path / "file")
    found = columns.import_columns(tmp_path / "file", format, tmp_path / "t.jsonl").table
    assert found.conditions == table.conditions
    figures = ["n", "min", "p10", "median", "p90", "low", "high", "mean", "std"]
    assert (found.blocks[figures] == table.blocks[figures]).all(axis=None)
    assert found.blocks["disturbed"].tolist() == table.blocks["disturbed"].tolist()
    assert found.predicted[["median", "error"]].equals(table.predicted[["median", "error"]])
    assert found.failed["reason"].to_dict() == table.failed["reason"].to_dict()
    assert found.header.resolutions == table.header.resolutions


@pytest.mark.parametrize("format", [columns.CSV, columns.PARQUET])
def test_columns_of_an_imported_table_give_the_same_table(tmp_path: Path, format: str) -> None:
    if format == columns.PARQUET:
        pytest.importorskip("pyarrow")
    table = formats.import_yaml(write(tmp_path, OFA_LITE0, OFA, 96, 112), tmp_path / "t.jsonl", space=OFA_LITE0).table
    columns.write(table, format, tmp_path / "file")
    found = columns.import_columns(tmp_path / "file", format, tmp_path / "u.jsonl").table
    assert found.contents.rows[1:] == table.contents.rows[1:]


def test_parquet_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OfaEdgeError, match="parquet needs pyarrow") as caught:
        columns.write(LatencyTable.read(FROZEN), columns.PARQUET, tmp_path / "file")
    assert "pip install pyarrow" in caught.value.hint


# -- what is no table -----------------------------------------------------------------------------
KEY = "Conv-input:96x96x3-output:48x48x32"
BOMB = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"

BAD_YAML = [
    (b"", "has no rows"),
    (b"\x00\x01\xff\xfe", "is not a yaml file"),
    (b"\xff\xd8\xff\xe0", "is not a yaml file"),
    (b"just text", "there is a lone value"),
    (b"- 1\n- 2\n", "a list is no table"),
    (BOMB.encode(), "anchors and aliases are refused"),
    (b"a: 1\n<<: *a\n", "anchors and aliases are refused"),
    (f"{KEY}: !!python/object/apply:os.system ['true']\n".encode(), "tag .* is refused"),
    (f"{KEY}: 1.0\n{KEY}: 2.0\n".encode(), "line 2: key .* stands twice"),
    (f"{KEY}: {{mean: 1, mean: 2}}\n".encode(), "'mean' stands twice"),
    (f"{KEY}:\n  mean: .nan\n".encode(), "mean '.nan' is not a number"),
    (f"{KEY}:\n  mean: 1e999\n".encode(), "out of range"),
    (f"{KEY}:\n  mean: -1\n".encode(), "negative"),
    (f"{KEY}:\n  mean: 0\n".encode(), "nothing takes no time"),
    (f"{KEY}:\n  mean: fast\n".encode(), "is not a number"),
    (f"{KEY}:\n  mean: 1_0\n".encode(), "is not a number"),
    (f"{KEY}:\n  mean: true\n".encode(), "is not a number"),
    (f"{KEY}:\n  mean: 1\n  std: -1\n".encode(), "std -1 is negative"),
    (f"{KEY}:\n  mean: 1\n  count: 0\n".encode(), "count '0' is no number of runs"),
    (f"{KEY}:\n  mean: 1\n  count: 1.5\n".encode(), "count '1.5' is no number of runs"),
    (f"{KEY}:\n  count: 3\n".encode(), "it has no mean"),
    (f"{KEY}:\n".encode(), "mean '' is not a number"),
    (f"{KEY}: {{mean: {{a: 1}}}}\n".encode(), "nested too deeply"),
    (f"{KEY}: [1]\n".encode(), "a list is no table"),
    (f"{KEY}:\n  mean: 1\n---\n{KEY}:\n  mean: 2\n".encode(), "a second document"),
    (f"{KEY}:\n  mean: 1\n {{".encode(), "line 3 is not a yaml file"),
    (f"{KEY}: {{mean: 1".encode(), "is not a yaml file"),
    (("{" * 5000).encode(), "nested too deeply"),
    (b"Conv-input:96x96-output:3: 1\n", "is no key of a latency table"),
    (f"{KEY}: 1.0\nConv-input:112x112x3-output:56x56x32: 1.0\n".encode(), "mixes resolutions 96, 112"),
    (f"{KEY}: 1.0\nConv_1-input:4x4x320-output:4x4x1280: 1.0\n".encode(), "mixes resolutions: Conv_1"),
    (f"{KEY}: 1.0\nConv_1-input:3x3x32-output:3x3x1280: 1.0\n".encode(), "is not in space ofa-lite0 at resolution 96"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "problem"), BAD_YAML)
def test_what_is_no_yaml_table_is_refused_with_its_own_message(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "96.yaml"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=problem) as caught:
        formats.import_yaml(
            [path], tmp_path / "t.jsonl", format=OFA if "resolution" in problem else None, space=OFA_LITE0
        )
    assert caught.value.hint
    assert str(path) in caught.value.message
    assert not (tmp_path / "t.jsonl").exists()


def test_a_huge_yaml_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.yaml"
    monkeypatch.setattr(yaml_tables, "MAX_BYTES", 100)
    path.write_bytes(b"#" * 101)
    with pytest.raises(BadFile, match="is larger than"):
        yaml_tables.read(path)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path, OFA_LITE0, OFA, 96, 112)
    out = tmp_path / "t.jsonl"
    with pytest.raises(BadFile, match="are both of resolution 96"):
        formats.import_yaml([first, first], out, space=OFA_LITE0)
    with pytest.raises(BadFile, match="is of resolution 96, not 112"):
        formats.import_yaml([first], out, space=OFA_LITE0, resolutions=[112])
    with pytest.raises(UsageError, match="1 resolutions were named for 2 files"):
        formats.import_yaml([first, second], out, space=OFA_LITE0, resolutions=[96])
    other = tmp_path / "other.yaml"
    other.write_text(yaml_tables.text(made(OFA_PROXYLESS_W13, 160, PROXYLESS)))
    with pytest.raises(BadFile, match="keys of Once-for-All .* and of ProxylessNAS"):
        formats.import_yaml([first, other], out)
    with pytest.raises(BadFile, match="is no key of ofa-yaml"):
        formats.import_yaml([other], out, format=OFA)
    other.write_text(yaml_tables.text(made(OFA_LITE0, 160, OFA)))
    with pytest.raises(BadFile, match="not in space ofa-mbv3-w1.2 at resolution 160"):
        formats.import_yaml([other], out, space=OFA_MBV3_W12)


def test_formats_without_keys_for_a_space_say_so() -> None:
    with pytest.raises(UsageError, match="no keys for the blocks of ofa-resnet50d"):
        foreign_keys.keys(OFA_RESNET50D, 224, OFA)
    with pytest.raises(UsageError, match="cannot tell the blocks of ofa-mbv3-w1.2 apart"):
        foreign_keys.keys(OFA_MBV3_W12, 224, PROXYLESS)


def spoilt(text: str, change: Callable[[list[list[str]]], None]) -> str:
    rows = [line.split(",") for line in text.splitlines()]
    change(rows)
    return "".join(",".join(row) + "\n" for row in rows)


def cell(name: str, value: str) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        rows[2][rows[0].index(name)] = value

    return change


def header(name: str, value: str) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        rows[0][rows[0].index(name)] = value

    return change


BAD_CSV = [
    (cell("median", "fast"), "line 3: median 'fast' is not a number"),
    (cell("median", "nan"), "line 3: median 'nan' is not a number"),
    (cell("median", "-1"), "line 3: median -1 is negative"),
    (cell("median", "1e999"), "line 3: median 1e999 is out of range"),
    (cell("median", ""), "'median' is missing"),
    (cell("median", "1000"), "figures contradict"),
    (cell("record", "netwrok"), "record 'netwrok' is not one of"),
    (cell("condition_threads", "2"), "condition_threads is '2', in the first row '1'"),
    (cell("space", "other"), "space is 'other', in the first row 'ofa-lite0'"),
    (header("key", "name"), "has no column 'key'"),
    (header("condition_threads", "x"), "has no column 'condition_threads'"),
    (header("reason", "key"), "has two columns 'key'"),
    (lambda rows: rows[2].pop(), "line 3 has .* cells"),
    (lambda rows: rows.clear(), "has no column 'record'"),
    (lambda rows: rows.__delitem__(slice(1, None)), "has no rows"),
    (lambda rows: rows[1].__setitem__(0, '"' + rows[1][0]), "is not a csv file"),
]


@pytest.mark.parametrize(("change", "problem"), BAD_CSV)
def test_a_spoilt_csv_is_refused_with_its_line(
    tmp_path: Path, change: Callable[[list[list[str]]], None], problem: str
) -> None:
    path = tmp_path / "t.csv"
    columns.write(LatencyTable.read(FROZEN), columns.CSV, path)
    path.write_text(spoilt(path.read_text(), change))
    with pytest.raises(BadFile, match=problem) as caught:
        columns.import_columns(path, columns.CSV, tmp_path / "t.jsonl")
    assert caught.value.hint
    assert not (tmp_path / "t.jsonl").exists()


def test_parquet_of_another_schema_or_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    path = tmp_path / "t.parquet"
    pd.DataFrame({"image": [b"x"], "label": [1]}).to_parquet(path)
    with pytest.raises(BadFile, match="has no column 'record'"):
        columns.import_columns(path, columns.PARQUET, tmp_path / "t.jsonl")
    for content in (b"", b"PAR1", path.read_bytes()[:-30], b"no parquet at all, but long enough to look at"):
        path.write_bytes(content)
        with pytest.raises(BadFile, match="is not a parquet file"):
            columns.import_columns(path, columns.PARQUET, tmp_path / "t.jsonl")


# -- the command ----------------------------------------------------------------------------------
def run(capsys: Any, *arguments: object) -> tuple[int, Any]:
    code = app.main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_command_imports_predicts_and_exports(tmp_path: Path, capsys: Any) -> None:
    paths = write(tmp_path, OFA_LITE0, OFA, 96, 112)
    out = tmp_path / "t.jsonl"
    given = ("--space", "ofa-lite0", "--device-model", "Phone", "--condition", "threads=4", "--condition", "cores=0 1")
    code, value = run(capsys, "table", "import", *paths, "--out", out, *given)
    assert (code, value["rows"], value["missing"]) == (0, 2 * 56, 0)
    assert value["conditions"] | {"device_model": "Phone", "threads": 4, "cores": [0, 1]} == value["conditions"]
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(codecs.encode(OFA_LITE0, OFA_LITE0.smallest(112))))
    code, (prediction,) = run(capsys, "predict", "--table", out, "--arch", arch)
    assert (code, prediction["missing"], prediction["latency_ms"]["low"]) == (0, [], None)
    for name, count in (("t.csv", 1), ("folder", 2)):
        code, value = run(capsys, "table", "export", out, "--out", tmp_path / name)
        assert (code, len(value["files"])) == (0, count)
    code, value = run(capsys, "table", "import", tmp_path / "t.csv", "--out", tmp_path / "u.jsonl")
    assert (code, value["conditions"]["cores"]) == (0, [0, 1])


def test_people_read_what_is_known_of_an_imported_table_and_no_list_of_unknowns(tmp_path: Path, capsys: Any) -> None:
    paths = write(tmp_path, OFA_LITE0, OFA, 96, 112)
    out = tmp_path / "t.jsonl"
    given = ["--space", "ofa-lite0", "--device-model", "Phone", "--condition", "threads=4", "--out", str(out)]
    assert app.main(["table", "import", *map(str, paths), *given]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["device"], lines["rows"], lines["space"]) == ("Phone", "112", "ofa-lite0 at 96 112 px")
    assert app.main(["table", "show", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "device    Phone" in said
    assert "runs on   threads 4" in said
    assert app.main(["table", "export", str(out), "--out", str(tmp_path / "t.csv")]) == 0
    assert f"files    {tmp_path / 't.csv'}" in capsys.readouterr().out.splitlines()


BAD_COMMANDS = [
    ("table import {yaml} --out {yaml} --space ofa-lite0", 2, "exists already"),
    ("table import {yaml} --out {out} --format json", 2, "no format 'json'"),
    ("table import {junk} --out {out}", 2, "does not tell its format"),
    ("table import {dir} --out {out} --format ofa-yaml", 2, "cannot read"),
    ("table import {dir} --out {out} --format csv", 2, "cannot read"),
    ("table import {dir} --out {out} --format parquet", 2, "cannot read"),
    ("table import {missing}.csv --out {out}", 2, "cannot read"),
    ("table import {yaml} --out {out} --space ofa-lite0 --condition moon=full", 2, "names no condition"),
    ("table import {yaml} --out {out} --space ofa-lite0 --condition threads=0", 2, "threads"),
    ("table import {yaml} --out {out} --space ofa-lite0 --condition threads=many", 2, "'many' is no value of threads"),
    ("table import {yaml} --out {out} --space ofa-lite0 --resolutions x", 2, "not a range"),
    ("table import {other} --out {out}", 9, "those of no table"),
    ("table export {table} --out {out}.xyz", 2, "does not tell a format"),
    ("table export {table} --out {out} --format accuracy-csv", 2, "no format"),
    ("table export {table} --out {out}.yaml --format proxyless-yaml", 9, "no measurement of 1 of the blocks"),
    ("table export {table} --out {table} --format csv", 2, "an export does not replace"),
    ("table export {junk} --out {out}.csv", 9, "line 1 is damaged"),
]


@pytest.mark.parametrize(("line", "exit_code", "message"), BAD_COMMANDS)
def test_mistakes_end_in_a_sentence(tmp_path: Path, capsys: Any, line: str, exit_code: int, message: str) -> None:
    (tmp_path / "junk").write_text("not a table\n")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (path,) = write(tmp_path, OFA_LITE0, OFA, 96)
    names = {
        "yaml": path, "out": tmp_path / "out", "junk": tmp_path / "junk", "dir": tmp_path, "table": FROZEN,
        "missing": tmp_path / "missing", "other": tmp_path / "other.csv",
    }  # fmt: skip
    code, value = run(capsys, *line.format(**names).split())
    assert code == exit_code, value
    assert message in value["error"]["message"]
    assert value["error"]["hint"]
