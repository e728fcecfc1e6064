"""ofa-edge.toml: defaults for options, weaker than the command line and the environment.

In: the file `$OFA_EDGE_CONFIG` names, else ./ofa-edge.toml where there is one. Out: for each command a dict
of option values. Rules kept: an unknown section or option is refused by name, so that a typing error never
passes for a setting; keys may be written with dashes or underscores.

    host = "pi4"              # for every command that has --host

    [profile]
    threads = 4
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ofa_edge.cli.options import SHARED
from ofa_edge.errors import BadFile, UsageError

FILE_NAME = "ofa-edge.toml"
VARIABLE = "OFA_EDGE_CONFIG"

# What only a person at the keyboard decides.
_NEVER = frozenset({"as_json", "help"})


def read(commands: Collection[str]) -> Mapping[str, Any]:
    """The file's content, its section names checked against `commands`.

    Raises:
        UsageError: $OFA_EDGE_CONFIG names a file that cannot be read.
        BadFile: not TOML, or a section or shared option nobody knows.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named or FILE_NAME)
    if not named and not path.is_file():
        return {}
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=f"set {VARIABLE} to a readable file") from error
    except ValueError as error:
        raise BadFile(f"{path} is not TOML: {error}", hint="correct the line, or move the file away") from error
    for key, value in content.items():
        if isinstance(value, dict):
            _known(path, f"section [{key}]", key, commands)
        else:
            _known(path, f"option {key!r}", _option(key), SHARED)
    return content


def defaults(content: Mapping[str, Any], name: str, command: Any) -> dict[str, Any]:
    """Values for one command's options: the shared ones it has, then its own section.

    Args:
        content: what `read` returned, or for a command in a group the group's section.
        name: the section to look for.
        command: the click command, whose parameters say which options exist.
    Raises:
        BadFile: the section names an option the command does not have.
    """
    shared = {_option(key): value for key, value in content.items() if not isinstance(value, dict)}
    section = content.get(name, {})
    children: Mapping[str, Any] = getattr(command, "commands", {})
    if children:
        for key in section:
            _known(Path(FILE_NAME), f"section [{name}.{key}]", key, children)
        inner = {**shared, **section}
        return {child: defaults(inner, child, children[child]) for child in children}
    parameters = {param.name: param for param in command.params if param.name not in _NEVER}
    values = {key: value for key, value in shared.items() if key in parameters}
    for key, value in section.items():
        _known(Path(FILE_NAME), f"option {key!r} in [{name}]", _option(key), parameters)
        values[_option(key)] = value
    return {key: _shaped(parameters[key], value) for key, value in values.items()}


def _option(key: str) -> str:
    return key.replace("-", "_")


def _shaped(parameter: Any, value: Any) -> Any:
    """A repeatable option takes a list; one value alone is a list of one."""
    return [value] if getattr(parameter, "multiple", False) and not isinstance(value, list) else value


def _known(path: Path, what: str, key: str, names: Collection[str]) -> None:
    if key not in names:
        raise BadFile(f"{path}: unknown {what}", hint=f"it may be one of: {', '.join(sorted(names))}")
