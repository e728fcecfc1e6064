"""How a command reaches devices: --python, --root, --accept-new, --identity and --json, declared here once.

In: a command that takes a Reach first. Out: the command as typer sees it, with these options after its own. Rule kept:
nothing of a device is loaded before the command runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from ofa_edge.cli import options
from ofa_edge.cli.output import Output

if TYPE_CHECKING:
    from ofa_edge.device import ConnectOptions, Session

P = ParamSpec("P")


@dataclass(frozen=True)
class Reach:
    """How to reach devices, and where to say what happens: recorded host keys are told through `out`."""

    connecting: ConnectOptions
    out: Output

    def open(self, host: str) -> Session:
        """Raises as device.open_device."""
        from ofa_edge.device import open_device

        return open_device(host, options=self.connecting)

    def expanded(self, hosts: Sequence[str]) -> list[str]:
        """Each host once, groups replaced by their devices. Raises as Inventory.load and expand."""
        from ofa_edge.device import Inventory

        return Inventory.load().expand(hosts)


def _reach(
    python: options.RemotePython = None,
    root: options.Root = None,
    accept_new: options.AcceptNew = False,
    identity: options.Identity = None,
    as_json: options.Json = False,
) -> Reach:
    from ofa_edge.device import ConnectOptions

    out = Output(as_json)
    at = None if root is None else str(root)
    return Reach(ConnectOptions(python, at, accept_new, identity, notify=out.notice), out)


_SHARED = inspect.signature(_reach, eval_str=True).parameters


def reaches(command: Callable[Concatenate[Reach, P], None]) -> Callable[..., None]:
    """Give a command the options above, as one Reach. One that it declares itself is its own, and not the Reach's."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    shared = [option for name, option in _SHARED.items() if name not in {parameter.name for parameter in own}]

    @wraps(command)
    def run(**given: Any) -> None:
        reach = _reach(**{option.name: given.pop(option.name) for option in shared})
        command(reach, **given)  # type: ignore[call-arg]

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in [*own, *shared]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
