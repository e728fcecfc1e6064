"""Which packages give a device a runtime: from what its interpreter says about itself to a list of wheels.

In: an Interpreter (interpreters.py asks for it) and a runtime's name. Out: a Recipe, or a sentence why there is none
and what to type instead. Rules, no IO: nothing is downloaded, built or asked here.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from ofa_edge.device.pins import WHEELS
from ofa_edge.errors import UsageError

RUNTIMES = ("onnxruntime", "litert")
OLDEST_PYTHON = (3, 9)  # what the agent itself needs

# What brings a runtime, in the order of preference; the first whose wheels fit the device is taken. A set without numpy
# uses the device's own, which must be older than the version named: on 32-bit Arm no index but a distribution has one.
_SETS: dict[str, tuple[tuple[str, ...], ...]] = {
    "onnxruntime": (("onnxruntime", "numpy"),),
    "litert": (("ai_edge_litert", "numpy"), ("tflite_runtime",)),
}
_OWN_NUMPY_BELOW = 2

# Shared libraries that the wheels do not carry, and Debian's packages of them.
LIBRARIES = {"libstdc++.so.6": "libstdc++6", "libgcc_s.so.1": "libgcc-s1", "libz.so.1": "zlib1g"}

# Part of a recipe's identity: change it when the packer puts other files into a site made of the same wheels.
PACKER = 1


class Wheel(NamedTuple):
    """A wheel by the parts of its name (PEP 427): `python` is cp311, `platforms` what the file runs on."""

    file: str
    sha256: str

    @property
    def parts(self) -> list[str]:
        return self.file.removesuffix(".whl").split("-")

    @property
    def package(self) -> str:
        return self.parts[0]

    @property
    def version(self) -> str:
        return self.parts[1]

    @property
    def python(self) -> str:
        return self.parts[2]

    @property
    def abi(self) -> str:
        return self.parts[3]

    @property
    def platforms(self) -> list[str]:
        return self.parts[4].split(".")

    def fits(self, tag: str) -> bool:
        python, _, machine = tag.partition("-")
        return self.python == python and all(platform.endswith(f"_{machine}") for platform in self.platforms)

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest C library that it runs on."""
        found = [re.match(r"manylinux_(\d+)_(\d+)_", platform) for platform in self.platforms]
        return min(((int(m[1]), int(m[2])) if m else (2, 17)) for m in found)  # without numbers: manylinux2014


@dataclass(frozen=True)
class Interpreter:
    """What a device's Python says about itself.

    Args:
        command: how it is started there.
        version: of Python.
        tag: as device_agents.site_path.tag, e.g. cp311-aarch64; the machine is what the code is for, so armv7l on a
            32-bit system with a 64-bit kernel.
        libc: e.g. 'glibc 2.36'; empty where it is another.
        lacks: those of LIBRARIES that do not load.
        numpy: version of the one it has, '' for none.
    """

    command: str
    version: tuple[int, int, int]
    tag: str
    libc: str
    lacks: tuple[str, ...] = ()
    numpy: str = ""

    @property
    def machine(self) -> str:
        return self.tag.partition("-")[2]


@dataclass(frozen=True)
class Recipe:
    """The packages of a site: `version` is the runtime's."""

    runtime: str
    version: str
    tag: str
    wheels: tuple[Wheel, ...]

    @property
    def key(self) -> str:
        """The same for equal sites, before they are built."""
        text = "\n".join([str(PACKER), self.runtime, self.tag, *(wheel.sha256 for wheel in self.wheels)])
        return f"{self.runtime}-{self.version}-{self.tag}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def site(self, sha256: str) -> str:
        """Its folder's name on a device, for the sha256 of the packed file."""
        return f"{self.runtime}-{self.version}-{self.tag}-{sha256[:12]}"


def pip_name(runtime: str) -> str:
    """What `pip install` calls the package that brings a runtime."""
    return _SETS[runtime][0][0].replace("_", "-")


def recipe(device: str, runtime: str, found: Interpreter) -> Recipe:
    """What to bring to a device.

    Args:
        device: how messages call it.

    Raises:
        UsageError: nothing fits; the sentence says what is in the way and the hint what would do.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"no runtime {runtime!r} can be set up", hint=f"choose from {', '.join(RUNTIMES)}")
    _require_python(device, found)
    if not found.libc.startswith("glibc "):
        raise UsageError(
            f"{device} has no glibc but another C library (musl, as Alpine has?), for which {runtime} is not built",
            hint="use a system with glibc there (Debian, Ubuntu, Raspberry Pi OS), or name a Python that has "
            "a runtime of its own with --python",
        )
    wheels = _wheels(device, runtime, found)
    needed = max(wheel.glibc for wheel in wheels)
    if _glibc(found.libc) < needed:
        oldest = ".".join(map(str, needed))
        raise UsageError(
            f"{device} has {found.libc}; {wheels[0].package} {wheels[0].version} needs {oldest} or newer",
            hint="install a newer release of the system there (Debian 11, Ubuntu 20.04 or later have one)",
        )
    if found.lacks:
        packages = " ".join(LIBRARIES.get(name, name) for name in found.lacks)
        raise UsageError(
            f"{device} lacks {' and '.join(found.lacks)}, which {runtime} needs",
            hint=f"install it there: sudo apt install {packages}",
        )
    if not any(wheel.package == "numpy" for wheel in wheels):
        _require_own_numpy(device, wheels[0], found)
    return Recipe(runtime, wheels[0].version, found.tag, tuple(wheels))


def _require_python(device: str, found: Interpreter) -> None:
    version = ".".join(map(str, found.version))
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if found.version[:2] < OLDEST_PYTHON:
        raise UsageError(
            f"{device}: {found.command} is Python {version}, which is too old: {oldest} or newer is needed",
            hint="install a newer Python there, and name it with --python if it is not called python3",
        )
    if not re.match(r"cp\d+-", found.tag):
        kind = "free-threaded build" if found.tag.startswith("cp") else f"kind of Python ({found.tag})"
        raise UsageError(
            f"{device}: {found.command} is a {kind}, for which there are no packages",
            hint="name an ordinary CPython there with --python",
        )


def _wheels(device: str, runtime: str, found: Interpreter) -> list[Wheel]:
    known = [Wheel(file, sha256) for file, sha256 in WHEELS.items()]
    for packages in _SETS[runtime]:
        fitting = [[w for w in known if w.package == package and w.fits(found.tag)] for package in packages]
        if all(fitting):
            return [wheels[-1] for wheels in fitting]
    first = {packages[0] for packages in _SETS[runtime]}
    built = [wheel for wheel in known if wheel.package in first and wheel.platforms[0].endswith(f"_{found.machine}")]
    if not built:
        others = [other for other in RUNTIMES if other != runtime and _built_for(other, found.machine)]
        raise UsageError(
            f"{device} is {found.machine}, for which there is no package of {runtime}",
            hint=f"use --runtime {others[0]}, or a 64-bit system there" if others else "use a 64-bit Arm or x86 system",
        )
    versions = sorted({int(wheel.python.removeprefix("cp3")) for wheel in built})
    raise UsageError(
        f"{device}: there is no package of {runtime} for Python {found.version[0]}.{found.version[1]} on "
        f"{found.machine}, only for 3.{versions[0]} to 3.{versions[-1]}",
        hint=f"install one of these there and name it: --python python3.{versions[-1]}",
    )


def _built_for(runtime: str, machine: str) -> bool:
    packages = {packages[0] for packages in _SETS[runtime]}
    wheels = (Wheel(file, sha256) for file, sha256 in WHEELS.items())
    return any(wheel.package in packages and wheel.platforms[0].endswith(f"_{machine}") for wheel in wheels)


def _require_own_numpy(device: str, wheel: Wheel, found: Interpreter) -> None:
    major = re.match(r"\d+", found.numpy)
    if major is None or int(major[0]) >= _OWN_NUMPY_BELOW:
        has = f"numpy {found.numpy}" if found.numpy else "no numpy"
        raise UsageError(
            f"{device} has {has}; {wheel.package} {wheel.version}, the one build for {found.machine}, needs one "
            f"older than {_OWN_NUMPY_BELOW}, and no index has that for {found.machine}",
            hint="install the distribution's there: sudo apt install python3-numpy",
        )


def _glibc(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
