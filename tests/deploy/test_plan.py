"""One JSON file a case: the state of a device, what is different about bundle and device, the plan expected.

In a case, NEW stands for the bundle's release; a state holds what differs from an empty device.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.deploy.device_state import parse_state
from ofa_edge.deploy.hooks import Hooks
from ofa_edge.deploy.plan import Step, Wishes, plan, plan_rollback
from ofa_edge.errors import ProtocolError
from ofa_edge.latency.conditions import RunsOn
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
    "mode": None,
    "counter": 0,
    "signature": None,
    "needs_hands": "",
    "releases": [],
    "free_bytes": 10**9,
    "lock": None,
}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan(path: Path) -> None:
    raw = json.loads(path.read_text())
    bundle = make_bundle(
        budget_ms=raw.get("budget_ms", 20.0),
        p90_ms=raw.get("p90_ms"),
        at=CONDITIONS if raw.get("conditions", True) else None,
        runs_on=RunsOn(threads=raw.get("threads", 1)),
        counter=raw.get("counter", 0),
        modes=raw.get("modes", ["default"]),
    )
    case = json.loads(path.read_text().replace("NEW", bundle.release))
    missing = frozenset(bundle.blobs()) if case["missing"] == "all" else frozenset[str]()
    state = parse_state({**EMPTY, **case["state"]}, replace(FACTS, **case.get("facts", {})), missing)
    expected = case["expect"]
    hooks = Hooks.parse(case.get("post_switch"), case.get("health"), 5.0)
    wishes = Wishes(case.get("accept_stale", False), case.get("allow_downgrade", False), hooks)

    made = plan(state, bundle.manifest, wishes, case.get("signature"))

    assert made.verdict == expected["verdict"], made.reason
    assert [str(planned.step) for planned in made.steps] == expected["steps"]
    assert expected.get("reason", "") in made.reason
    assert expected.get("hint", "") in made.hint
    details = {step: [p.detail for p in made.steps if p.step == step] for step in expected["steps"]}
    for step, texts in expected.get("details", {}).items():
        texts = texts if isinstance(texts, list) else [texts]
        assert len(texts) == len(details[step])
        for text, detail in zip(texts, details[step], strict=True):
            assert text in detail
    assert bool(made.hint) == (made.verdict not in ("deploy", "sign", "unchanged"))


def test_steps_follow_the_order_they_are_declared_in() -> None:
    bundle = make_bundle(modes=["full", "low"])
    steps = list(Step)
    hooks = Hooks.parse("restart camera", "ask camera")
    for made in (
        plan(parse_state(EMPTY, FACTS, frozenset(bundle.blobs())), bundle.manifest, Wishes(hooks=hooks)),
        plan_rollback(parse_state(EMPTY, FACTS), bundle.manifest, hooks=hooks, measure=True),
    ):
        places = [steps.index(planned.step) for planned in made.steps]
        assert places == sorted(places)
        names = [str(planned.step) for planned in made.steps]
        for step in ("check outputs", "check latency"):
            assert [p.mode for p in made.steps if p.step == step] == ["full", "low"]
        assert names[names.index("switch") :][:5] == ["switch", "post-switch", "verify", "health", "commit"]


@pytest.mark.parametrize(
    "change",
    [
        {"current": "../../etc"},
        {"current": 7},
        {"releases": ["ok", "/abs"]},
        {"releases": "all"},
        {"mode": "../low"},
        {"mode": 3},
        {"counter": -1},
        {"counter": None},
        {"signature": "abc"},
        {"trials": {"a": -1}},
        {"trials": {"a": True}},
        {"trials": []},
        {"free_bytes": -1},
        {"lock": {"holder": "x\u001b[2J", "age_s": 1, "alive": True, "mine": False, "pid": 1}},
        {"unfinished": {"release": "a", "from": "../b", "kind": "deploy", "step": "trial"}},
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
