"""Which packages a device gets, decided from what its Python says about itself: no IO, a table of devices."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from device_agents import site_path
from ofa_edge.device.interpreters import probe
from ofa_edge.device.local import LocalLink
from ofa_edge.device.pins import WHEELS
from ofa_edge.device.sites import LIBRARIES, RUNTIMES, Interpreter, Wheel, recipe
from ofa_edge.errors import UsageError

PI = Interpreter("python3", (3, 11, 2), "cp311-aarch64", "glibc 2.36")


@pytest.mark.parametrize(
    ("device", "runtime", "packages"),
    [
        (PI, "onnxruntime", ["onnxruntime 1.31.1", "numpy 2.4.6"]),
        (PI, "litert", ["ai_edge_litert 2.3.0", "numpy 2.4.6"]),
        (replace(PI, version=(3, 9, 2), tag="cp39-aarch64"), "onnxruntime", ["onnxruntime 1.19.2", "numpy 2.0.2"]),
        (replace(PI, version=(3, 10, 1), tag="cp310-x86_64"), "onnxruntime", ["onnxruntime 1.23.2", "numpy 2.2.6"]),
        (replace(PI, version=(3, 14, 0), tag="cp314-x86_64"), "litert", ["ai_edge_litert 2.3.0", "numpy 2.4.6"]),
        (replace(PI, tag="cp311-armv7l", numpy="1.24.2"), "litert", ["tflite_runtime 2.14.0"]),
        (replace(PI, libc="glibc 2.28"), "onnxruntime", ["onnxruntime 1.31.1", "numpy 2.4.6"]),
    ],
)
def test_a_device_gets_the_wheels_for_its_python(device: Interpreter, runtime: str, packages: list[str]) -> None:
    found = recipe("pi", runtime, device)
    assert [f"{wheel.package} {wheel.version}" for wheel in found.wheels] == packages
    assert all(wheel.fits(device.tag) for wheel in found.wheels)
    assert found.version == packages[0].split()[1]
    assert site_path.NAME.fullmatch(found.site("0" * 64))


@pytest.mark.parametrize(
    ("device", "runtime", "message", "hint"),
    [
        (
            replace(PI, version=(3, 7, 3), tag="cp37-aarch64"),
            "litert",
            "Python 3.7.3, which is too old: 3.9",
            "--python",
        ),
        (
            replace(PI, version=(2, 7, 18), tag="python27-aarch64"),
            "litert",
            "Python 2.7.18, which is too old",
            "--python",
        ),
        (replace(PI, tag="pypy311-aarch64"), "litert", "pypy", "CPython"),
        (replace(PI, tag="cp313t-aarch64"), "litert", "free-threaded", "CPython"),
        (replace(PI, libc=""), "onnxruntime", "musl", "glibc there"),
        (replace(PI, libc="glibc 2.24"), "onnxruntime", "glibc 2.24; onnxruntime 1.31.1 needs 2.28", "newer release"),
        (replace(PI, lacks=("libstdc++.so.6",)), "onnxruntime", r"lacks libstdc\+\+.so.6", "apt install libstdc++6"),
        (replace(PI, tag="cp311-armv7l"), "onnxruntime", "armv7l, for which there is no package", "--runtime litert"),
        (replace(PI, tag="cp312-armv7l"), "litert", "for Python 3.11 on armv7l, only for 3.9 to 3.11", "python3.11"),
        (replace(PI, tag="cp311-armv7l"), "litert", "no numpy", "apt install python3-numpy"),
        (replace(PI, tag="cp311-armv7l", numpy="2.1.0"), "litert", "numpy 2.1.0", "apt install python3-numpy"),
        (replace(PI, tag="cp311-armv6l"), "litert", "armv6l", "64-bit"),
        (replace(PI, tag="cp311-riscv64"), "onnxruntime", "riscv64", "64-bit"),
        (replace(PI, version=(3, 15, 0), tag="cp315-aarch64"), "onnxruntime", "Python 3.15", "--python python3.14"),
        (PI, "tensorrt", "'tensorrt'", "onnxruntime, litert"),
    ],
)
def test_what_cannot_be_served_says_why_and_what_would(
    device: Interpreter, runtime: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        recipe("pi", runtime, device)
    assert hint in caught.value.hint


def test_every_pinned_wheel_is_one_and_belongs_to_a_recipe() -> None:
    served = set()
    for tag in {
        f"{Wheel(file, sha).python}-{Wheel(file, sha).platforms[0].split('_', 3)[-1]}" for file, sha in WHEELS.items()
    }:
        machine = re.sub(r"^(\d+_)*", "", tag.partition("-")[2])
        python = tag.partition("-")[0]
        device = replace(PI, version=(3, int(python[3:]), 0), tag=f"{python}-{machine}", numpy="1.24")
        for runtime in RUNTIMES:
            try:
                served.update(wheel.file for wheel in recipe("pi", runtime, device).wheels)
            except UsageError:
                assert (runtime, machine) == ("onnxruntime", "armv7l")
    assert served == set(WHEELS)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in WHEELS.values())
    assert len(set(WHEELS.values())) == len(WHEELS)


def test_equal_recipes_have_equal_keys_and_others_do_not() -> None:
    one = recipe("pi", "onnxruntime", PI)
    assert one.key == recipe("attic", "onnxruntime", replace(PI, libc="glibc 2.31", numpy="1.0")).key
    assert one.key != recipe("pi", "litert", PI).key
    assert one.key != replace(one, wheels=one.wheels[:1]).key


def test_both_sides_name_this_machines_packages_alike() -> None:
    """The host asks with its own line of Python, before the agent is known to start."""
    found = probe(LocalLink())
    assert found.tag == site_path.tag()
    assert found.version[:2] >= (3, 11)
    assert set(found.lacks) <= set(LIBRARIES)
