"""The device's own rules for its mode: low battery, heat, no mains. Started by a timer, without a host.

In: <root>/<app>/policy.json, the battery, the temperature. Out: the mode that is to be used, and why.

    {"version": 1,
     "rules": [{"when": {"battery_below": 20}, "mode": "low", "hysteresis": 5},
               {"when": {"celsius_above": 75}, "mode": "low", "hysteresis": 10},
               {"when": {"on_battery": true}, "mode": "mid"}],
     "else": "full"}

Rules kept: the first rule that holds decides, all of its conditions must; what cannot be read holds for no rule. A
rule with a hysteresis that brought the device into its mode lets go only that far beyond its threshold, so that the
mode does not flutter; what mode the device is in is all that is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from device_agents import modes, supply, thermal
from device_agents.disk import chunks_of
from device_agents.errors import AgentError
from device_agents.releases import App
from device_agents.strict_json import Fields, WireError, loads

FILE = "policy.json"
VERSION = 1
MAX_RULES = 32
_MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class Rule:
    """`mode`, while all that is not None holds; `hysteresis` in percent and in kelvin."""

    mode: str
    battery_below: float | None = None
    celsius_above: float | None = None
    on_battery: bool | None = None
    hysteresis: float = 0.0


@dataclass(frozen=True)
class Policy:
    """Rules in their order, and the mode where none holds."""

    rules: tuple[Rule, ...]
    otherwise: str

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """Raises WireError."""
        f = Fields("policy", loads(data))
        f.whole("version", VERSION, VERSION)
        rules = tuple(_rule(value) for value in f.items("rules", MAX_RULES))
        out = cls(rules, f.text("else", modes.NAME))
        f.done()
        return out


@dataclass(frozen=True)
class Sensors:
    """How to read what rules ask for; each is read at most once, and only for a rule that asks."""

    battery: Callable[[], float | None]
    celsius: Callable[[], float | None]
    on_battery: Callable[[], bool | None]

    @classmethod
    def below(cls, base: str) -> Sensors:
        """Those of the system whose root is `base`."""
        return cls(
            _once(lambda: supply.charge(base)),
            _once(lambda: thermal.hottest(thermal.files(base))),
            _once(lambda: supply.on_battery(base)),
        )


def decide(policy: Policy, sensors: Sensors, mode: str | None) -> tuple[str, str]:
    """The mode to use and the reason; `mode` is the one in use."""
    unread: list[str] = []
    for rule in policy.rules:
        spare = rule.hysteresis if rule.mode == mode else 0.0
        reasons = _reasons(rule, sensors, spare, unread)
        if reasons is not None:
            return rule.mode, " and ".join(reasons)
    note = f"; {' and '.join(dict.fromkeys(unread))} cannot be read" if unread else ""
    return policy.otherwise, f"no rule holds{note}"


def apply(app: App, base: str = "/") -> tuple[str, str]:
    """Read the app's policy and follow it: the mode that is in use now, and why.

    Raises:
        AgentError: no release is current, there is no policy, it is not valid, or the release lacks a mode it names.
    """
    path = app.folder / FILE
    try:
        policy = Policy.parse(b"".join(chunks_of(path, _MAX_BYTES)))
    except WireError as error:
        raise AgentError("bad-file", f"{path}: {error}") from error
    running = modes.current(app)
    mode, reason = decide(policy, Sensors.below(base), running.mode)
    modes.change(app, mode, reason)
    return mode, reason


def _rule(value: Any) -> Rule:
    f = Fields("rule", value)
    when = Fields("when", f.object("when"))
    out = Rule(
        f.text("mode", modes.NAME),
        when.number("battery_below", 0.0, 100.0) if when.has("battery_below") else None,
        when.number("celsius_above", -40.0, 150.0) if when.has("celsius_above") else None,
        when.flag("on_battery") if when.has("on_battery") else None,
        f.number("hysteresis", 0.0, 100.0) if f.has("hysteresis") else 0.0,
    )
    when.done()
    f.done()
    if (out.battery_below, out.celsius_above, out.on_battery) == (None, None, None):
        raise WireError("rule: 'when' must name battery_below, celsius_above or on_battery")
    return out


def _reasons(rule: Rule, sensors: Sensors, spare: float, unread: list[str]) -> list[str] | None:
    """Why a rule holds, one reason for each of its conditions; None where one of them does not."""
    reasons = []
    if rule.battery_below is not None:
        battery, below = sensors.battery(), rule.battery_below + spare
        if battery is None:
            unread.append("the battery")
        if battery is None or battery >= below:
            return None
        reasons.append(f"the battery has {battery:.0f} %, below {below:g} %")
    if rule.celsius_above is not None:
        celsius, above = sensors.celsius(), rule.celsius_above - spare
        if celsius is None:
            unread.append("the temperature")
        if celsius is None or celsius <= above:
            return None
        reasons.append(f"it has {celsius:.0f} °C, above {above:g} °C")
    if rule.on_battery is not None:
        on_battery = sensors.on_battery()
        if on_battery is None:
            unread.append("the supply")
        if on_battery is not rule.on_battery:
            return None
        reasons.append("it runs on its battery" if on_battery else "it does not run on its battery")
    return reasons


def _once(read: Callable[[], Any]) -> Callable[[], Any]:
    """`read`, asked the first time only."""
    known: list[Any] = []

    def ask() -> Any:
        if not known:
            known.append(read())
        return known[0]

    return ask
