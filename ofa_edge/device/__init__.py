"""How the host reaches devices: links, host keys, the session that speaks the agent's protocol, devices.toml."""

from ofa_edge.device.hosts import ConnectOptions, connect, open_device
from ofa_edge.device.inventory import Inventory
from ofa_edge.device.opening import open_session
from ofa_edge.device.session import Session

__all__ = ["ConnectOptions", "Inventory", "Session", "connect", "open_device", "open_session"]
