"""Checkpoints: what is saved is loaded, in half precision and without torch; anything else is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.space.arch import Arch
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights import checkpoint
from ofa_edge.weights.bank import Bank, Statistics, features
from ofa_edge.weights.checkpoint import Checkpoint, Metadata
from ofa_edge.weights.cut import fold, subnet_arrays
from ofa_edge.weights.layout import batch_norms, supernet_shapes
from tests.train.tiny import TINY, arrays_of, random_network, random_statistics

REPOSITORY = Path(__file__).resolve().parents[2]

METADATA = Metadata(
    space="tiny",
    labels=("amber", "birch", "Käfer"),
    source="random",
    licence="none needed",
    recipe={"name": "none", "phases": [{"epochs": 1}]},
    data={"train": 3},
    bank={"mean_points": 0.25},
)


def bank(space=TINY) -> Bank:
    rng = np.random.default_rng(0)
    coefficients = {}
    for name, width in batch_norms(space, space.largest()):
        shape = (len(features(space, space.largest(), name)), width)
        coefficients[name] = (
            rng.normal(0, 0.1, shape).astype(np.float32),
            rng.normal(0, 0.1, shape).astype(np.float32),
        )
    return Bank(coefficients)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    checkpoint.save(path, arrays_of(random_network(0)), bank(), METADATA)
    return path


def rewrite(path: Path, *, arrays=lambda found: found, metadata=lambda found: found) -> None:
    """Change a file's arrays or metadata, leaving a valid safetensors file."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    path.write_bytes(safetensors.numpy.save(arrays(safetensors.numpy.load(content)), metadata(header)))


# -- round trip ---------------------------------------------------------------------------------
def test_what_is_saved_is_loaded_in_half_precision(path: Path) -> None:
    arrays = arrays_of(random_network(0))
    digest = checkpoint.save(path, arrays, bank(), METADATA)
    found = checkpoint.load(path)
    assert found.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.space is TINY
    assert found.metadata == METADATA
    assert found.arrays.keys() == arrays.keys()
    for name, value in found.arrays.items():
        assert value.dtype == np.float32
        assert np.array_equal(value, arrays[name].astype(np.float16).astype(np.float32))
    assert found.bank is not None
    assert found.bank.coefficients.keys() == bank().coefficients.keys()
    assert path.stat().st_size < 2.2 * sum(a.size for a in [*arrays.values(), *bank().arrays().values()]) + 30_000


def test_equal_checkpoints_are_equal_bytes(tmp_path: Path) -> None:
    arrays = arrays_of(random_network(0))
    one = checkpoint.save(tmp_path / "one", arrays, bank(), METADATA)
    two = checkpoint.save(tmp_path / "two", dict(reversed(arrays.items())), bank(), METADATA)
    assert one == two


def test_saving_replaces_a_file_whole_and_leaves_no_part(saved: Path) -> None:
    before = saved.read_bytes()
    checkpoint.save(saved, arrays_of(random_network(1)), None, METADATA)
    assert saved.read_bytes() != before
    assert checkpoint.load(saved).bank is None
    assert os.listdir(saved.parent) == [saved.name]


def test_a_kill_while_saving_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(saved, arrays_of(random_network(1)), None, METADATA)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("value", [1e5, np.nan, np.inf])
@pytest.mark.parametrize("where", ["weights", "bank"])
def test_values_that_half_precision_cannot_hold_are_refused_and_nothing_written(
    path: Path, where: str, value: float
) -> None:
    arrays, coefficients = arrays_of(random_network(0)), dict(bank().coefficients)
    if where == "weights":
        name = "head.conv.weight"
        arrays[name][3, 2] = value
    else:
        name = "head.conv_bn"
        coefficients[name][0][0, 0] = value
    with pytest.raises(BadFile, match=name):
        checkpoint.save(path, arrays, Bank(coefficients), METADATA)
    assert not path.exists()


# -- subnets ------------------------------------------------------------------------------------
def test_folding_takes_the_banks_statistics_unless_others_are_given(saved: Path) -> None:
    found, arch = checkpoint.load(saved), TINY.smallest()
    assert found.bank is not None
    by_bank = found.folded(arch)
    same = found.folded(arch, found.bank.statistics(TINY, arch))
    other = found.folded(arch, random_statistics(arch, 1))
    name = "stages.0.0.project.bias"
    assert np.array_equal(by_bank[name], same[name])
    assert not np.allclose(by_bank[name], other[name])


def test_without_a_bank_a_subnet_needs_statistics(saved: Path) -> None:
    found = replace(checkpoint.load(saved), bank=None)
    with pytest.raises(BadFile, match="no BN bank") as caught:
        found.folded(TINY.smallest())
    assert "--data" in caught.value.hint
    found.folded(TINY.smallest(), random_statistics(TINY.smallest(), 0))


# -- refused ------------------------------------------------------------------------------------
def test_a_file_with_null_for_metadata_is_refused(tmp_path: Path) -> None:
    header = b'{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(BadFile, match="not an ofa-edge checkpoint"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_a_file_that_is_not_there_is_a_usage_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.safetensors: No such file"):
        checkpoint.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(UsageError, match="is not a file"):
        checkpoint.load(tmp_path)
    with pytest.raises(UsageError, match="is not a file"):
        checkpoint.load("/dev/zero")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"garbage that is longer than eight bytes",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 20) + b'{"__metadata__":null}'[:20],
        b"PK\x03\x04" + b"\0" * 100,
    ],
)
def test_garbage_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"tiny\.safetensors"):
        checkpoint.load(path)


def test_a_truncated_file_is_refused_wherever_it_ends(saved: Path) -> None:
    content = saved.read_bytes()
    for length in [0, 7, 8, 9, 500, *np.linspace(1000, len(content) - 1, 40).astype(int)]:
        saved.write_bytes(content[:length])
        with pytest.raises(BadFile):
            checkpoint.load(saved)


def test_damage_anywhere_in_the_header_never_ends_in_another_error(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, header, rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        saved.write_bytes(damaged)
        try:
            checkpoint.load(saved)
        except BadFile:
            refused += 1
    assert refused > 75


def test_another_safetensors_file_is_refused_by_its_format(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(safetensors.numpy.save({"weight": np.zeros(3, np.float32)}))
    with pytest.raises(BadFile, match=r"not an ofa-edge checkpoint \(format None"):
        checkpoint.load(path)


def test_arrays_of_no_real_numbers_are_refused(saved: Path) -> None:
    content = saved.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    arrays = safetensors.numpy.load(content)
    arrays["stem.conv.weight"] = arrays["stem.conv.weight"].astype(np.complex64)
    saved.write_bytes(safetensors.numpy.save(arrays, metadata=header["__metadata__"]))
    with pytest.raises(BadFile, match=r"C64|stem\.conv\.weight does not hold real numbers"):
        checkpoint.load(saved)


def test_a_folder_that_cannot_be_made_is_said(path: Path) -> None:
    path.parent.write_text("a file")
    with pytest.raises(OfaEdgeError, match="cannot write") as caught:
        checkpoint.save(path, arrays_of(random_network(0)), None, METADATA)
    assert "--out" in caught.value.hint


def test_a_type_that_numpy_has_not_is_refused(path: Path) -> None:
    torch = pytest.importorskip("torch")
    import safetensors.torch

    path.parent.mkdir()
    safetensors.torch.save_file({"weight": torch.zeros(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(BadFile, match="BF16"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "ofa-edge-supernet/2"}, "format 'ofa-edge-supernet/2'"),
        ({"space": "ofa-mbv9"}, "a space this ofa-edge does not know: 'ofa-mbv9'"),
        ({"licence": None}, "no 'licence'"),
        ({"labels": None}, "no 'labels'"),
        ({"labels": "{}"}, "labels are not a list"),
        ({"labels": "[1,2,3]"}, "labels are not a list"),
        ({"recipe": "[]"}, "recipe is not an object"),
        ({"data": "{"}, "no valid metadata"),
        ({"bank": '{"a":NaN}'}, "NaN is not allowed"),
        ({"bank": '{"a":1,"a":2}'}, "duplicate key 'a'"),
    ],
)
def test_metadata_is_read_strictly(saved: Path, change: dict[str, str | None], said: str) -> None:
    rewrite(saved, metadata=lambda found: {k: v for k, v in (found | change).items() if v is not None})
    with pytest.raises(BadFile, match=said.replace("[", r"\[")):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: {k: v for k, v in a.items() if k != "stem.conv.weight"}, r"missing \['stem\.conv\.weight'\]"),
        (
            lambda a: a | {"stages.9.0.expand.weight": a["stem.conv.weight"]},
            r"extra \['stages\.9\.0\.expand\.weight'\]",
        ),
        (
            lambda a: a | {"head.conv.weight": a["head.conv.weight"][1:]},
            r"head\.conv\.weight has shape \(31, 24, 1, 1\)",
        ),
        (
            lambda a: a | {"logits.linear.bias": a["logits.linear.bias"] * np.float16("nan")},
            r"logits\.linear\.bias holds",
        ),
        (
            lambda a: a | {"bank.head.conv_bn.mean": a["bank.head.conv_bn.mean"] * np.float16("inf")},
            r"head\.conv_bn holds",
        ),
        (lambda a: {k: v for k, v in a.items() if k != "bank.head.conv_bn.log_std"}, "bank is torn"),
    ],
    ids=["missing", "extra", "shape", "nan", "bank infinite", "bank torn"],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_arrays_must_be_those_of_the_space_and_finite(saved: Path, change, said: str) -> None:
    rewrite(saved, arrays=change)
    with pytest.raises(BadFile, match=said):
        checkpoint.load(saved)


# -- running statistics, single subnets, spaces of one's own ------------------------------------
def one_subnet() -> tuple[Arch, dict[str, np.ndarray], Statistics]:
    arch = TINY.sample(np.random.default_rng(2))
    return arch, subnet_arrays(TINY, arrays_of(random_network(0)), arch), random_statistics(arch, 5)


def test_running_statistics_are_kept_in_single_precision_and_cut_to_a_subnet(path: Path) -> None:
    running = random_statistics(TINY.largest(), 3)
    running["head.conv_bn"] = (running["head.conv_bn"][0], np.full(32, 1e6, np.float32))
    checkpoint.save(path, arrays_of(random_network(0)), None, METADATA, running=running)
    found, small = checkpoint.load(path), TINY.smallest()
    assert found.running is not None
    assert found.running.keys() == running.keys()
    cut = found.statistics_of(small, "running")
    assert [(name, len(mean)) for name, (mean, _) in cut.items()] == batch_norms(TINY, small)
    for name, (mean, var) in cut.items():
        assert np.array_equal(mean, running[name][0][: len(mean)])
        assert np.array_equal(var, running[name][1][: len(var)])
    with pytest.raises(BadFile, match="no BN bank") as caught:
        found.folded(small)
    assert caught.value.hint == "use its running statistics with --bn running"


def test_published_weights_are_kept_to_the_last_digit(path: Path) -> None:
    arrays = arrays_of(random_network(0))
    checkpoint.save(path, arrays, None, METADATA, single_precision=True)
    found = checkpoint.load(path)
    assert all(np.array_equal(found.arrays[name], value) for name, value in arrays.items())
    with pytest.raises(BadFile, match="no running statistics"):
        found.statistics_of(TINY.smallest(), "running")


def test_one_subnet_is_folded_by_its_own_statistics_and_no_other_subnet_is_there(path: Path) -> None:
    arch, arrays, running = one_subnet()
    checkpoint.save(path, arrays, None, METADATA, space=TINY, running=running, arch=arch, single_precision=True)
    found = checkpoint.load(path)
    assert (found.arch, found.space) == (arch, TINY)
    expected = fold(TINY, arrays_of(random_network(0)), arch, running)
    for resolution in TINY.resolutions:
        folded = found.folded(arch.at(resolution))
        assert folded.keys() == expected.keys()
        assert all(np.array_equal(folded[name], value) for name, value in expected.items())
    for call in (found.folded, found.statistics_of):
        with pytest.raises(UsageError, match="one subnet, and this arch is another"):
            call(TINY.largest())


def test_a_file_defines_a_space_that_is_not_built_in(path: Path) -> None:
    mine = replace(TINY, name="mine")
    metadata = replace(METADATA, space="mine")
    checkpoint.save(path, arrays_of(random_network(0)), bank(), metadata, space=mine)
    assert checkpoint.load(path).space == mine
    checkpoint.save(path, arrays_of(random_network(0)), bank(), metadata)
    with pytest.raises(BadFile, match="does not know: 'mine'"):
        checkpoint.load(path)


def test_there_are_as_many_classes_as_labels(path: Path) -> None:
    five = TINY.with_classes(5)
    checkpoint.save(path, arrays_of(random_network(0, five)), None, replace(METADATA, labels=tuple("abcde")))
    assert checkpoint.load(path).space == five


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "{"}, "no valid metadata: arch"),
        ({"arch": "[]"}, "its arch is not an object"),
        ({"arch": '{"r":16,"d":[9,1],"ks":[3,3,3,3],"e":[1,1,2,2]}'}, "not in its space: stage 0: depth 9"),
        ({"definition": '{"name":"tiny"}'}, "resolutions"),
        ({"space": "other"}, "does not know: 'other'"),
    ],
)
def test_arch_and_space_of_a_file_are_read_strictly(path: Path, change: dict[str, str], said: str) -> None:
    arch, arrays, running = one_subnet()
    checkpoint.save(path, arrays, None, METADATA, space=TINY, running=running, arch=arch)
    rewrite(path, metadata=lambda found: found | change)
    with pytest.raises(BadFile, match=said):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: {k: v for k, v in a.items() if k != "running.head.conv_bn.var"}, r"head\.conv_bn\.var is missing"),
        (lambda a: a | {"running.x.mean": a["running.head.conv_bn.mean"]}, r"running\.x\.mean is extra"),
        (lambda a: a | {"running.head.conv_bn.var": -a["running.head.conv_bn.var"]}, "not 32 finite statistics"),
        (lambda a: a | {"running.head.conv_bn.mean": a["running.head.conv_bn.mean"][:5]}, "not 32 finite statistics"),
    ],
    ids=["missing", "extra", "negative", "shape"],
)
def test_running_statistics_must_be_those_of_the_network(path: Path, change, said: str) -> None:
    arch, arrays, running = one_subnet()
    checkpoint.save(path, arrays, None, METADATA, space=TINY, running=running, arch=arch)
    rewrite(path, arrays=change)
    with pytest.raises(BadFile, match=said):
        checkpoint.load(path)


# -- without torch ------------------------------------------------------------------------------
def test_loading_and_cutting_import_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "lite0.safetensors"
    arrays = {name: np.ones(shape, np.float32) for name, shape in supernet_shapes(OFA_LITE0).items()}
    checkpoint.save(path, arrays, bank(OFA_LITE0), replace(METADATA, space="ofa-lite0", labels=("x",) * 10))
    program = (
        "import sys; from ofa_edge.weights import checkpoint; found = checkpoint.load(sys.argv[1]);"
        "found.folded(found.space.smallest());"
        "print([name for name in ('torch', 'pandas', 'PIL', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, path], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


# -- the one that ships -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def embedded() -> Checkpoint:
    return checkpoint.load()


def test_the_embedded_supernet_is_under_8_mb_and_says_where_it_comes_from(embedded: Checkpoint) -> None:
    assert checkpoint.embedded_path().stat().st_size < 8_000_000
    assert embedded.space == OFA_LITE0
    assert len(embedded.metadata.labels) == OFA_LITE0.classes
    assert embedded.metadata.source
    assert "non-commercial" in embedded.metadata.licence
    assert {"train", "heldout", "heldout_sha256"} <= embedded.metadata.data.keys()
    assert {"mean_points", "worst_points"} <= embedded.metadata.bank.keys()


def test_the_embedded_supernet_has_a_bank_for_every_subnet(embedded: Checkpoint) -> None:
    assert embedded.bank is not None
    space, rng = embedded.space, np.random.default_rng(0)
    for arch in [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(5))]:
        for mean, var in embedded.bank.statistics(space, arch).values():
            assert np.isfinite(mean).all()
            assert ((var > 0) & np.isfinite(var)).all()
        assert all(np.isfinite(value).all() for value in embedded.folded(arch).values())
