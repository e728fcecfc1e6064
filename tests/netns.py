"""A device's network, as a namespace of its own with one cable to here that can be pulled; needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


class NoNamespaces(Exception):
    """Why there can be none here."""


@dataclass(frozen=True)
class Namespace:
    """A namespace and its end of the cable.

    Attributes:
        address: of the device; reached from here.
        within: what a command begins with to run in it.
    """

    name: str
    address: str
    cable: str

    @property
    def within(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def pull(self) -> None:
        """The cable is pulled: packets are lost, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        _ip("link", "set", self.cable, "up")


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace that is gone afterwards.

    Raises:
        NoNamespaces: not root, no iproute2, or a system that does not allow it.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoNamespaces("network namespaces need root and iproute2")
    number = os.getpid() % 16000  # unlike that of another test run beside this one
    name, cable = f"ofa-d{number}", f"ofa-v{number}"
    ours, its = (f"10.77.{number // 64}.{number % 64 * 4 + host}" for host in (1, 2))
    try:
        try:
            _ip("netns", "add", name)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("addr", "add", f"{ours}/30", "dev", cable)
            _ip("link", "set", cable, "up")
            for words in (
                ("addr", "add", f"{its}/30", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", name, *words)
        except subprocess.CalledProcessError as error:
            raise NoNamespaces(f"network namespaces are not allowed here: {error.stderr.strip()}") from error
        yield Namespace(name, its, cable)
    finally:
        for words in (("link", "del", cable), ("netns", "del", name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
