"""Where our files lie on the host, and what the environment says.

One home holds everything we write: `OFA_EDGE_HOME` when it is set (the CLI's `--root` sets it for its own
process), else the platform's user data folder. Options come before the environment, the environment
before files; this module reads the environment at the call, never at import.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

HOME_VARIABLE = "OFA_EDGE_HOME"
PYTHON_VARIABLE = "OFA_EDGE_DEVICE_PYTHON"
SSH_CONFIG_VARIABLE = "OFA_EDGE_SSH_CONFIG"


def home() -> Path:
    """The folder of everything ours; not created here."""
    if value := os.environ.get(HOME_VARIABLE):
        return Path(value).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_path("ofa-edge"))


def use_home(path: str | Path) -> None:
    """Make `path` the home of this process and of every agent it starts on this machine (`--root`)."""
    os.environ[HOME_VARIABLE] = str(Path(path).expanduser().absolute())


def tables_dir(device_model: str) -> Path:
    """Latency tables of a device model; the name is reduced to letters, digits, dot, dash and underscore."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", device_model).strip("-.")[:100] or "unknown"
    return home() / "tables" / name


def devices_file() -> Path:
    """The inventory: ./devices.toml where there is one, else the home's."""
    here = Path("devices.toml")
    return here.absolute() if here.is_file() else home() / "devices.toml"


def device_python() -> str | None:
    """The interpreter to use on devices, if the environment names one."""
    return os.environ.get(PYTHON_VARIABLE) or None


def ssh_config() -> Path | None:
    """An ssh_config to read instead of the user's and the system's, if the environment names one."""
    value = os.environ.get(SSH_CONFIG_VARIABLE)
    return Path(value).expanduser() if value else None
