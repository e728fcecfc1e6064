"""`export`: every format and precision, several subnets a call, accuracy before and after, nothing half-written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge import files as writing
from ofa_edge.cli.app import main
from ofa_edge.cli.export_archs import spread
from ofa_edge.graph import acceleration, check
from ofa_edge.space import codecs
from ofa_edge.supernet.batchnorm import fit_statistics, recalibrate
from ofa_edge.train import batches, images
from ofa_edge.weights import checkpoint
from ofa_edge.weights.checkpoint import Metadata
from tests.reduced import REDUCED, registered
from tests.train.tiny import TINY, arrays_of, image_set, parquet_rows, random_network, write_parquet

Run = Callable[..., tuple[int, Any]]
FORMATS = ("onnx", "tflite")


@pytest.fixture(scope="module", autouse=True)
def _spaces() -> Iterator[None]:
    with registered(TINY):
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A supernet with a bank, its images, and archs of it."""
    folder = tmp_path_factory.mktemp("files")
    found = {name: folder / name for name in ("ckpt", "arch", "archs", "data", "noval")}
    network, rng = random_network(5), np.random.default_rng(0)
    crops = {r: images.centre_crops(image_set(40), r, TINY.preprocess) for r in TINY.resolutions}
    drawn = [TINY.sample(rng) for _ in range(25)]
    bank = fit_statistics(
        TINY,
        [
            (arch, recalibrate(network, arch, [batches.normalise(crops[arch.resolution], TINY.preprocess)]))
            for arch in drawn
        ],
    )
    metadata = Metadata("tiny", ("red", "green", "blue"), "drawn", "none needed", {}, {"heldout": 20}, {})
    checkpoint.save(found["ckpt"], arrays_of(network), bank, metadata)
    archs = [codecs.encode(TINY, arch) for arch in (TINY.largest(), TINY.smallest(), drawn[0])]
    found["arch"].write_text(json.dumps(archs[0]))
    found["archs"].write_text(json.dumps(archs))
    write_parquet(found["data"] / "train.parquet", parquet_rows(90))
    write_parquet(found["data"] / "val.parquet", parquet_rows(30, start=200))
    write_parquet(found["noval"] / "train.parquet", parquet_rows(60))
    return found


@pytest.fixture
def run(files: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Run:
    """Run `export` with --json: its exit code and the one value on stdout. {name} stands for a file."""
    monkeypatch.chdir(tmp_path)

    def runs(line: str) -> tuple[int, Any]:
        capsys.readouterr()
        words = f"export --supernet {{ckpt}} {line}".split()
        code = main([*(word.format(**files, out=tmp_path / "out") for word in words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return runs


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_format_and_precision_is_written_and_counted(
    run: Run, tmp_path: Path, format_: str, precision: str
) -> None:
    line = f"--arch {{arch}} --format {format_} --precision {precision} --data {{data}} --bn bank --out {{out}}"
    code, value = run(line)
    assert code == 0, value
    content = (tmp_path / "out").read_bytes()
    assert value["sha256"] == hashlib.sha256(content).hexdigest()
    assert (value["bytes"], value["format"], value["precision"]) == (len(content), format_, precision)
    assert value["ops"] == check.operators(content)
    assert value["partitions"] == acceleration.of(content).partitions == 1
    assert value["bn"] == "bank"
    accuracy = value["accuracy"]
    assert (accuracy["split"], accuracy["images"]) == ("val", 30)
    assert abs(accuracy["file"] - accuracy["fp32"]) <= (10 if precision == "int8" else 1e-9)
    expected = {"fp32": None, "fp16": None, "int8": "int8" if format_ == "tflite" else "uint8"}[precision]
    assert value["activations"] == expected


def test_without_a_val_split_the_held_out_images_count(run: Run) -> None:
    code, value = run("--arch {arch} --precision int8 --data {noval} --out {out}")
    assert code == 0, value
    assert (value["accuracy"]["split"], value["accuracy"]["images"]) == ("heldout", 20)
    assert value["bn"] == "recalibrated"
    code, value = run("--arch {arch} --data {noval}/train.parquet --bn bank --out {out}")
    assert (value["accuracy"]["split"], value["accuracy"]["file"]) == ("heldout", value["accuracy"]["fp32"])


def test_several_archs_become_a_folder_with_a_file_each(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    code, values = run("--arch {archs} --format tflite --precision fp16 --out {out}")
    assert code == 0, values
    assert [value["arch"] for value in values] == json.loads(files["archs"].read_text())
    names = [f"{i}-{value['arch']['r']}px.tflite" for i, value in enumerate(values)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for value, name in zip(values, names, strict=True):
        assert Path(value["file"]) == tmp_path / "out" / name
        assert value["sha256"] == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()


def test_a_disk_that_fills_up_leaves_whole_files_only(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    replace, left = Path.replace, [1]

    def full(self: Path, target: Path) -> Path:
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()
        return replace(self, target)

    monkeypatch.setattr(writing.Path, "replace", full)
    code, value = run("--arch {archs} --out {out}")
    assert code == 1
    assert "cannot write" in value["error"]["message"]
    (only,) = (tmp_path / "out").iterdir()
    check.load(only.read_bytes())


def test_text_tells_accuracy_and_notices(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--supernet", files["ckpt"], "--arch", files["arch"], "--data", files["data"], "--bn", "bank"]
    assert main(["export", *map(str, words), "--precision", "int8", "--out", str(tmp_path / "net.onnx")]) == 0
    told = capsys.readouterr().out
    assert "% in fp32, of 30 images (val)" in told
    assert "parity" in told


# -- subnets by what chose them -------------------------------------------------------------------
def test_a_front_is_exported_in_one_call(run_boards: Run, tmp_path: Path) -> None:
    line = "export --supernet {ckpt} --front 4 --latency-table {table} --accuracy-table {accuracy} --out {out}"
    code, values = run_boards(line)
    assert code == 0, values
    assert len(values) == len(list((tmp_path / "out").iterdir())) == 4
    assert len({json.dumps(value["arch"]) for value in values}) == 4
    sizes = [value["bytes"] for value in values]
    assert sizes[0] == min(sizes)
    for value in values:
        codecs.decode(REDUCED, value["arch"])


def test_a_selection_and_each_mode_of_a_family_are_exported(run_boards: Run, tmp_path: Path) -> None:
    select = "select --latency-table {table} --accuracy-table {accuracy}"
    assert run_boards(f"{select} --budget 1s --out one.json")[0] == 0
    code, value = run_boards("export --supernet {ckpt} --selection one.json --out {out}.onnx")
    assert code == 0, value
    assert value["file"] == str(tmp_path / "out.onnx")
    assert run_boards(f"{select} --mode full:1s --mode low:size=80kB --out both.json")[0] == 0
    code, values = run_boards("export --supernet {ckpt} --selection both.json --precision fp16 --out {out}")
    assert code == 0, values
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["full.onnx", "low.onnx"]


def test_a_selection_is_written_as_it_runs_unless_options_say_otherwise(run_boards: Run, capsys: Any) -> None:
    select = "select --latency-table {table} --accuracy-table {accuracy} --budget 1s --precision fp16"
    assert run_boards(f"{select} --out half.json")[1]["runs"]["precision"] == "fp16"
    value = json.loads(Path("half.json").read_text())
    value["runs"]["runtime"] = "litert"
    Path("lite.json").write_text(json.dumps(value))
    for line, written in (
        ("--selection lite.json", ("tflite", "fp16")),
        ("--selection lite.json --format onnx", ("onnx", "fp16")),
        ("--selection half.json --precision fp32", ("onnx", "fp32")),
    ):
        code, value = run_boards(f"export --supernet {{ckpt}} {line} --out {{out}}")
        assert (code, value["format"], value["precision"]) == (0, *written), value
    assert main(["export", "--selection", "lite.json", "--format", "onnx", "--supernet", "x"]) == 2
    code, value = run_boards("export --supernet {ckpt} --selection lite.json --activations int8 --out {out}")
    assert (code, "not for fp16 tflite" in value["error"]["message"]) == (2, True)


def test_points_of_a_front_lie_evenly_in_the_logarithm_of_latency() -> None:
    class Points:
        latency_ms = np.array([1.0, 1.1, 1.2, 2.0, 4.1, 8.0, 15.0, 16.0])

        def __len__(self) -> int:
            return len(self.latency_ms)

    assert spread(Points(), 5) == [0, 3, 4, 5, 7]  # type: ignore[arg-type]
    assert spread(Points(), 1) == [0]  # type: ignore[arg-type]
    assert spread(Points(), 8) == spread(Points(), 99) == list(range(8))  # type: ignore[arg-type]
    assert len(set(spread(Points(), 7))) == 7  # type: ignore[arg-type]


def test_random_weights_are_quantised_on_any_images(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    words = ["--random-weights", "1", "--space", "tiny", "--arch", files["arch"], "--data", files["data"]]
    assert main(["export", *map(str, words), "--precision", "int8", "--out", str(tmp_path / "net.onnx")]) == 0
