"""One JSON file a case: the state of a device, what is different about bundle and device, the plan expected.

In a case, NEW stands for the bundle's release; a state holds what differs from an empty device.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.deploy.plan import Step, parse_state, plan, plan_rollback
from ofa_edge.errors import ProtocolError
from tests.deploy.double import CONDITIONS, FACTS, make_bundle

CASES = sorted((Path(__file__).parent / "plans").glob("*.json"))
EMPTY: dict[str, Any] = {
    "app": "camera",
    "current": None,
    "problem": "",
    "previous": None,
    "committed": None,
    "unfinished": None,
    "trials": {},
    "needs_hands": "",
    "releases": [],
    "free_bytes": 10**9,
    "lock": None,
}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan(path: Path) -> None:
    raw = json.loads(path.read_text())
    bundle = make_bundle(budget_ms=raw.get("budget_ms", 20.0), at=CONDITIONS if raw.get("conditions", True) else None)
    case = json.loads(path.read_text().replace("NEW", bundle.release))
    missing = frozenset(bundle.blobs()) if case["missing"] == "all" else frozenset[str]()
    state = parse_state({**EMPTY, **case["state"]}, replace(FACTS, **case.get("facts", {})), missing)
    expected = case["expect"]

    made = plan(state, bundle.manifest, accept_stale=case.get("accept_stale", False))

    assert made.verdict == expected["verdict"], made.reason
    assert [str(planned.step) for planned in made.steps] == expected["steps"]
    assert expected.get("reason", "") in made.reason
    details = {str(planned.step): planned.detail for planned in made.steps}
    for step, text in expected.get("details", {}).items():
        assert text in details[step]
    assert bool(made.hint) == (made.verdict not in ("deploy", "unchanged"))


def test_steps_follow_the_order_they_are_declared_in() -> None:
    bundle = make_bundle()
    steps = list(Step)
    for made in (
        plan(parse_state(EMPTY, FACTS, frozenset(bundle.blobs())), bundle.manifest),
        plan_rollback(parse_state(EMPTY, FACTS), bundle.manifest),
    ):
        places = [steps.index(planned.step) for planned in made.steps]
        assert places == sorted(places)
        assert places.index(steps.index(Step.OUTPUTS)) < places.index(steps.index(Step.SWITCH))


@pytest.mark.parametrize(
    "change",
    [
        {"current": "../../etc"},
        {"current": 7},
        {"releases": ["ok", "/abs"]},
        {"releases": "all"},
        {"trials": {"a": -1}},
        {"trials": {"a": True}},
        {"trials": []},
        {"free_bytes": -1},
        {"lock": {"holder": "x\u001b[2J", "age_s": 1, "alive": True, "mine": False, "pid": 1}},
        {"unfinished": {"release": "a", "from": "../b", "step": "trial"}},
        {"committed": "yes"},
        {"problem": None},
    ],
)
def test_a_device_that_answers_nonsense_is_told_so(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="'state'"):
        parse_state({**EMPTY, **change}, FACTS)


@pytest.mark.parametrize("key", sorted(set(EMPTY) - {"app"}))
def test_an_answer_with_a_field_missing_is_none(key: str) -> None:
    with pytest.raises(ProtocolError):
        parse_state({name: value for name, value in EMPTY.items() if name != key}, FACTS)
