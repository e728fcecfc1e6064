"""Which packages from the host a worker uses: entries on its sys.path.

In: the folders and links below <root>/sites (sites.py makes them). Out: a changed sys.path, before a runtime is
imported. Rules kept: an interpreter that has a runtime of its own keeps that one; a link is followed only to a site of
ours beside it. Imported by every fresh worker, so it imports little.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys

FOLDER = "sites"

MODULES = {"onnxruntime": ("onnxruntime",), "litert": ("ai_edge_litert", "tflite_runtime")}
"""Runtime name on the wire -> import names of the packages that bring it."""

NAME = re.compile(r"([a-z][a-z0-9]{0,30})-[0-9][0-9a-z.]{0,30}-([a-z]{1,8}[0-9]{1,4}t?-[a-z0-9_]{1,30})-[0-9a-f]{12}")
"""A site's name: runtime, its version, tag, and the beginning of the packed file's sha256."""


def tag() -> str:
    """What a compiled package must fit here: interpreter, its version, the machine its code is for."""
    machine = platform.machine()
    if sys.maxsize < 1 << 32:  # a 32-bit system on a 64-bit kernel
        machine = {"aarch64": "armv7l", "x86_64": "i686"}.get(machine, machine)
    name = {"cpython": "cp"}.get(sys.implementation.name, sys.implementation.name)
    free_threaded = "t" if "t" in getattr(sys, "abiflags", "") else ""
    return f"{name}{sys.version_info[0]}{sys.version_info[1]}{free_threaded}-{machine}"


def use(root: str, only: str | None = None) -> None:
    """Put sites on sys.path, for a worker; called before a runtime is imported.

    Args:
        root: our folder.
        only: this site, whatever is current; else the current site of each runtime that the interpreter lacks.
    """
    folder = os.path.join(root, FOLDER)
    if only is not None:
        sys.path.insert(1, os.path.join(folder, only))
        return
    if not os.path.isdir(folder):
        return
    here = tag()
    own = [runtime for runtime, names in MODULES.items() if any(map(importlib.util.find_spec, names))]
    wanted = (target(os.path.join(folder, f"current-{name}-{here}")) for name in MODULES if name not in own)
    paths = [os.path.join(folder, name) for name in wanted if name and os.path.isdir(os.path.join(folder, name))]
    if own:
        sys.path.extend(paths)  # what its own runtime was installed with stays first
    else:
        sys.path[1:1] = paths  # after the agent itself


def target(link: str) -> str | None:
    """The site's name that a link of ours holds; None for anything else."""
    try:
        name = os.readlink(link)
    except OSError:
        return None
    return name if NAME.fullmatch(name) else None
