"""The example for applications classifies as the evaluator does, with nothing of ofa-edge at hand."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ofa_edge.accuracy.evaluate import Evaluator
from ofa_edge.cli.app import main
from ofa_edge.deploy import bundle, run
from ofa_edge.deploy.bundle import Bundle, Part, Tensors
from ofa_edge.device import open_device
from ofa_edge.graph import build, check, onnx, quantize, reference, tflite
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.arch import Arch
from ofa_edge.train import images as data
from ofa_edge.train.images import ImageSet, load_images
from ofa_edge.weights import checkpoint as checkpoints
from ofa_edge.weights.checkpoint import Checkpoint
from tests.deploy.double import APP, Clock
from tests.train.tiny import picture

COUNT = 24
SIZES = ((300, 260), (64, 200), (9, 9), (480, 300))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return checkpoints.load("embedded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every kind that preprocess.py speaks of, two of which are turned by their EXIF orientation."""
    found = tmp_path_factory.mktemp("images")
    (found / "x").mkdir()
    rng = np.random.default_rng(5)
    for number in range(COUNT):
        pixels = picture(number % 3, number, *SIZES[number % len(SIZES)]).astype(np.int16)
        pixels = np.clip(pixels + rng.integers(-60, 60, pixels.shape), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 8 == 1 else 1
        mode, ending = (("L", "png"), ("RGB", "jpg"), ("RGBA", "png"), ("RGB", "png"))[number % 4]
        image.convert(mode).save(found / "x" / f"{number:02}.{ending}", exif=exif)
    return found


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageSet:
    return load_images(folder)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as `bundle example` writes it."""
    place = tmp_path_factory.mktemp("example")
    assert main(["bundle", "example", "--out", str(place)]) == 0
    return place / "classify.py"


def part(checkpoint: Checkpoint, arch: Arch, runtime: str, precision: str = "fp32", name: str = "default") -> Part:
    graph = build.network(checkpoint.space.layers(arch), checkpoint.folded(arch))
    inputs = reference.golden_inputs(graph, 1, 0)
    outputs = reference.run(graph, inputs)
    content = onnx.to_bytes(graph) if runtime == "onnxruntime" else tflite.to_bytes(graph)
    if precision == "int8":
        content = quantize.tflite_int8(content, inputs)
    tolerance = 0.5 if precision == "int8" else 1e-4
    runs_on = RunsOn(runtime, precision=precision)
    return Part(arch, content, Tensors(inputs, outputs), runs_on, name=name, tolerance=tolerance)


def deployed(made: Bundle) -> Path:
    """The app's folder on this machine, where a real agent put the bundle."""
    with open_device("local") as session:
        run.deploy(session, made, measure=Clock())
        return Path(session.root) / APP


def bundle_of(checkpoint: Checkpoint, *parts: Part) -> Bundle:
    return bundle.build(app=APP, space=checkpoint.space, parts=parts, labels=checkpoint.metadata.labels)


def classified(example: Path, app: Path, files: list[Path]) -> list[dict[str, Any]]:
    """What the example prints, run away from the repository: neither the folder nor the path knows ofa_edge."""
    code = (
        "import sys, runpy; sys.path[:] = [p for p in sys.path if p not in ('', '.')]; "
        "sys.modules['ofa_edge'] = None; sys.path.insert(0, sys.argv[1].rpartition('/')[0]); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [sys.executable, "-c", code, str(example), str(app), *map(str, files), "--json", "--top", "10"]
    done = subprocess.run(words, cwd=example.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def module(example: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example as a module, which imports the preprocess.py beside it."""
    monkeypatch.syspath_prepend(str(example.parent))
    spec = importlib.util.spec_from_file_location("classify_example", example)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert Path(loaded.preprocess.__file__).parent == example.parent
    yield loaded
    sys.modules.pop("preprocess", None)


def test_a_deployed_release_classifies_as_the_evaluator_does(
    checkpoint: Checkpoint, example: Path, folder: Path, images: ImageSet, module: Any
) -> None:
    arch = checkpoint.space.smallest().at(128)
    made = bundle_of(checkpoint, part(checkpoint, arch, "onnxruntime"))
    app = deployed(made)
    files = [folder / name for name in images.names]
    found = classified(example, app, files)
    expected = Evaluator(checkpoint, images, workers=1).predictions(arch)
    labels = checkpoint.metadata.labels
    assert [one["classes"][0]["label"] for one in found] == [labels[index] for index in expected]
    assert len(found) == COUNT >= 20
    assert len(set(expected)) > 1
    # The very numbers: what the application feeds is what the evaluator feeds.
    preprocess = checkpoint.space.preprocess
    views = preprocess.normalised(data.centre_crops(images, arch.resolution, preprocess)).transpose(0, 3, 1, 2)
    logits = check.run(made.files["model.onnx"], np.ascontiguousarray(views))
    classifier = module.Classifier(str(app))
    assert np.array_equal(np.stack([classifier.scores(file.read_bytes()) for file in files]), logits)
    shares = np.exp(logits[0] - logits[0].max())
    best = found[0]["classes"][0]["probability"]
    assert best == pytest.approx(float(shares.max() / shares.sum()), rel=1e-6)
    assert sum(one["probability"] for one in found[0]["classes"]) == pytest.approx(1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_with_litert(
    checkpoint: Checkpoint, folder: Path, images: ImageSet, module: Any, precision: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    if precision == "int8":
        pytest.importorskip("ai_edge_quantizer")
    arch = checkpoint.space.smallest().at(96)
    app = deployed(bundle_of(checkpoint, part(checkpoint, arch, "litert", precision)))
    classifier = module.Classifier(str(app))
    assert classifier.mode["input"]["layout"] == "NHWC"
    preprocess = checkpoint.space.preprocess
    views = preprocess.normalised(data.centre_crops(images, arch.resolution, preprocess)).transpose(0, 3, 1, 2)
    model = onnx.to_bytes(build.network(checkpoint.space.layers(arch), checkpoint.folded(arch)))
    expected = check.run(model, np.ascontiguousarray(views))
    scores = np.stack([classifier.scores((folder / name).read_bytes()) for name in images.names])
    rel = np.abs(scores - expected).max() / np.abs(expected).max()
    assert rel < (1e-4 if precision == "fp32" else 0.5)
    if precision == "fp32":
        assert np.array_equal(scores.argmax(axis=1), expected.argmax(axis=1))


def test_an_application_follows_the_mode_and_the_release(checkpoint: Checkpoint, folder: Path, module: Any) -> None:
    full, low = (checkpoint.space.smallest().at(size) for size in (128, 96))
    parts = [part(checkpoint, full, "onnxruntime", name="full"), part(checkpoint, low, "onnxruntime", name="low")]
    app = deployed(bundle_of(checkpoint, *parts))
    first = module.Classifier(str(app))
    assert (first.mode["name"], first.stale) == ("full", False)
    (app / "mode").write_text("low\n")
    assert first.stale
    second = module.Classifier(str(app))
    assert (second.mode["name"], second.mode["input"]["resolution"]) == ("low", 96)
    (app / "mode").write_text("turbo")
    assert module.Classifier(str(app)).mode["name"] == "full"
    deployed(bundle_of(checkpoint, parts[0]))
    assert second.stale
    image = next((folder / "x").iterdir()).read_bytes()
    assert first.classify(image)[0][0] in checkpoint.metadata.labels


def test_what_is_wrong_is_said_and_ends_in_1(example: Path, folder: Path, tmp_path: Path) -> None:
    def ran(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, example, *words], capture_output=True, text=True, timeout=120)

    image = next((folder / "x").iterdir())
    done = ran(tmp_path / "nothing", image)
    assert (done.returncode, "no release can be used in" in done.stderr) == (1, True)


def test_a_file_that_is_no_image_costs_no_other(
    checkpoint: Checkpoint, example: Path, folder: Path, tmp_path: Path
) -> None:
    app = deployed(bundle_of(checkpoint, part(checkpoint, checkpoint.space.smallest().at(96), "onnxruntime")))
    (tmp_path / "x.jpg").write_bytes(b"no image")
    image = next((folder / "x").iterdir())
    words = [sys.executable, str(example), str(app), str(tmp_path / "x.jpg"), str(image)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "x.jpg: this is not an image that Pillow reads" in done.stderr
    assert done.stdout.startswith(f"{image}: ")
    assert done.stdout.rstrip().endswith("%")


def test_the_example_is_never_written_over_what_somebody_made_of_it(tmp_path: Path) -> None:
    assert main(["bundle", "example", "--out", str(tmp_path)]) == 0
    assert main(["bundle", "example", "--out", str(tmp_path)]) == 0
    (tmp_path / "classify.py").write_text("mine")
    assert main(["bundle", "example", "--out", str(tmp_path)]) == 2
    assert (tmp_path / "classify.py").read_text() == "mine"
