"""A family's file is a lock file of several selections; its members are found by mode and device, or refused."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.conditions import Conditions
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search import families
from ofa_edge.search.budget import Budget
from ofa_edge.search.families import Family, Member, Mode, labels, parse_modes
from ofa_edge.search.selection import Measured, Selection
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, mobilenet_v3

BOARD = Conditions(
    device_model="Board",
    soc="one",
    runtime="onnxruntime",
    runtime_version="1.2",
    delegate="none",
    threads=1,
    cores=[0, 1],
    governor="performance",
    precision="fp32",
    batch=1,
    emulated=False,
    method=1,
)
FOUR = BOARD.model_copy(update={"threads": 4})
PHONE = BOARD.model_copy(update={"device_model": "Phone", "soc": "two"})
UNKNOWN = BOARD.model_copy(update={"device_model": "unknown", "threads": "unknown"})


def selection(ms=8.0, table="a", depth=0, space=OFA_LITE0):
    arch = (space.smallest if depth == 0 else space.largest)(space.resolutions[0])
    return Selection(
        space=space,
        arch=arch,
        top1=Top1(0.91, 0.9, 0.92),
        latency_ms=Estimate(7.5, 7.25, 7.75),
        cost=cost(space.blocks(arch)),
        budget=Budget(latency_ms=ms),
        strategy="exact",
        confidence=0.95,
        model="greatest predicted top-1",
        proven_optimal=True,
        bound=0.91,
        inputs={"latency-table": table * 64},
        seed=0,
    )


FAMILY = Family(
    (
        Member("full", BOARD, selection(20.0, "a", 1)),
        Member("full", PHONE, selection(20.0, "b")),
        Member("low", BOARD, selection(10.0, "a")),
        Member("low", PHONE, selection(10.0, "b")),
    )
)
ONE_BUDGET = Family((Member(None, BOARD, selection(table="a")), Member(None, PHONE, selection(table="b"))), common=True)


# -- modes --------------------------------------------------------------------------------------
def test_modes_are_names_with_budgets():
    full, low = parse_modes(["full:20ms", "low-2:latency=10ms,memory=6MB"])
    assert full == Mode("full", Budget(latency_ms=20.0))
    assert low == Mode("low-2", Budget(latency_ms=10.0, memory_bytes=6_000_000))
    assert parse_modes([]) == ()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["20ms"], "'20ms' has no name or no budget"),
        ([":20ms"], "a mode has no name"),
        (["fast mode:20ms"], "'fast mode' cannot be the name"),
        (["../x:20ms"], "cannot be the name"),
        (["ä:20ms"], "cannot be the name"),
        (["x" * 33 + ":20ms"], "cannot be the name"),
        (["full:"], "mode full: the budget is empty"),
        (["full:20"], "mode full: '20' has no unit"),
        (["full:20ms", "low:9ms", "full:8ms"], "two modes called full"),
    ],
)
def test_a_wrong_mode_is_named_and_says_what_to_type(texts, said):
    with pytest.raises(UsageError) as caught:
        parse_modes(texts)
    assert said in caught.value.message
    assert caught.value.hint


def test_devices_are_called_by_what_tells_them_apart():
    assert labels([BOARD, PHONE]) == ["Board", "Phone"]
    assert labels([BOARD, FOUR, PHONE]) == ["Board (threads 1)", "Board (threads 4)", "Phone"]
    litert = FOUR.model_copy(update={"runtime": "litert", "runtime_version": "2.3", "delegate": "xnnpack"})
    assert labels([BOARD, litert]) == ["Board (onnxruntime)", "Board (litert)"]
    assert labels([BOARD, FOUR, litert])[1:] == ["Board (onnxruntime, threads 4)", "Board (litert)"]


# -- the file -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "family",
    [
        FAMILY,
        ONE_BUDGET,
        Family((Member("only", BOARD, replace(selection(), measured=Measured(latency_ms=Estimate(7.6)))),)),
        Family((Member(None, UNKNOWN, selection(table="a")), Member(None, UNKNOWN, selection(table="b")))),
    ],
)
def test_reads_back_equal(tmp_path, family):
    family.write(tmp_path / "family.json")
    found = families.read(tmp_path / "family.json")
    assert found == family
    assert found.to_bytes() == (tmp_path / "family.json").read_bytes()


def test_a_selections_file_is_read_as_one(tmp_path):
    selection().write(tmp_path / "one.json")
    assert families.read(tmp_path / "one.json") == selection()
    with pytest.raises(UsageError, match="cannot read"):
        families.read(tmp_path / "none.json")
    (tmp_path / "junk").write_text("neither\n")
    with pytest.raises(BadFile, match="is not a selection"):
        families.read(tmp_path / "junk")


def test_a_space_of_ones_own_travels_in_the_file(tmp_path):
    own = replace(mobilenet_v3("mine", 0.5), resolutions=(96,), classes=7)
    family = Family((Member(None, BOARD, selection(space=own)),))
    assert Family.from_bytes(family.to_bytes(), "it") == family


def test_the_file_holds_what_scripts_rely_on():
    value = json.loads(FAMILY.to_bytes())
    assert list(value) == ["schema", "version", "space", "common", "members"]
    assert [one["mode"] for one in value["members"]] == ["full", "full", "low", "low"]
    first = value["members"][0]
    assert list(first) == ["mode", "device", "conditions", "selection"]
    assert first["device"] == first["conditions"]["device_model"] == "Board"
    assert first["selection"]["inputs"] == {"latency-table": "a" * 64}
    assert json.loads(ONE_BUDGET.to_bytes())["members"][0]["mode"] is None


def changed(**fields):
    return json.dumps(json.loads(FAMILY.to_bytes()) | fields).encode()


def members(**fields):
    """The members, the first of them with these fields replaced."""
    found = json.loads(FAMILY.to_bytes())["members"]
    return [found[0] | fields, *found[1:]]


OTHER_SPACE = mobilenet_v3("mine", 0.5)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[]", "does not say that it is one"),
        (b" " * (16 << 20) + b"{}", "larger than"),
        (changed(version="2.0"), "its version is '2.0', this ofa-edge reads 1.x"),
        (changed(mood=1), "unknown field mood"),
        (changed(common="no"), "common is not of type bool"),
        (changed(space="ofa-mbv3-w1.0"), "are of space ofa-lite0, not of ofa-mbv3-w1.0"),
        (changed(members=[]), "it has 0 members"),
        (changed(members=[1] * 300), "it has 300 members"),
        (changed(members=[1]), "members[0]:"),
        (changed(members=members(mood=1)), "members[0]: it has an unknown field mood"),
        (changed(members=members(mode="../x")), "members[0]: '../x' cannot be the name of a mode"),
        (changed(members=members(mode=None)), "some of its members have a mode and some have none"),
        (changed(members=members(mode="low")), "two of its members are for mode low on Board"),
        (changed(members=members(device="Other")), "device is not the one of its conditions"),
        (changed(members=members(conditions={"device_model": "Board"})), "members[0]: soc: Field required"),
        (changed(members=members(selection={})), "members[0]: it does not say that it is one"),
        (changed(common=True), "its members differ although it is a common one"),
    ],
)
def test_anything_else_is_refused_by_name(data, said):
    with pytest.raises(BadFile) as caught:
        Family.from_bytes(data, "family.json")
    assert caught.value.message.startswith("family.json is not a family of selections of this version: ")
    assert said in caught.value.message
    assert "ofa-edge select --mode" in caught.value.hint


def test_a_later_minor_version_may_say_more():
    assert Family.from_bytes(changed(version="1.3", mood=1), "it") == FAMILY


def test_members_are_of_one_space():
    with pytest.raises(ValueError, match="several spaces"):
        Family((Member("a", BOARD, selection()), Member("b", BOARD, selection(space=OTHER_SPACE))))


# -- members ------------------------------------------------------------------------------------
def test_a_device_gets_its_own_member():
    assert FAMILY.modes == ("full", "low")
    assert FAMILY.member("full", BOARD) is FAMILY.members[0]
    assert FAMILY.member("low", PHONE) is FAMILY.members[3]
    assert ONE_BUDGET.modes == ()
    assert ONE_BUDGET.member(None, PHONE) is ONE_BUDGET.members[1]


def test_a_device_known_under_other_conditions_only_gets_that_member():
    """Whoever deploys it says which conditions differ; a family of one device leaves the question to that too."""
    assert FAMILY.member("full", FOUR) is FAMILY.members[0]
    both = Family((*ONE_BUDGET.members, Member(None, FOUR, selection())))
    assert both.member(None, FOUR) is both.members[2]
    with pytest.raises(BadFile, match=r"made for Board \(threads 1\); Phone; Board \(threads 4\)"):
        both.member(None, BOARD.model_copy(update={"threads": 2}))
    alone = Family((Member(None, BOARD, selection()),))
    assert alone.member(None, PHONE) is alone.members[0]


def test_a_device_gets_the_member_that_is_run_another_way_on_it():
    """Of two boards of one model that differ in what is their own."""
    slow = BOARD.model_copy(update={"governor": "powersave", "runtime": "litert", "delegate": "xnnpack"})
    both = Family((Member(None, BOARD, selection()), Member(None, slow, selection(table="b"))))
    assert both.member(None, FOUR) is both.members[0]
    assert both.member(None, FOUR.model_copy(update={"governor": "powersave"})) is both.members[1]


@pytest.mark.parametrize(
    ("family", "mode", "said", "hint"),
    [
        (FAMILY, None, "it.json has the modes full, low", "--mode NAME"),
        (FAMILY, "high", "it.json has no mode 'high'", "it has: full, low"),
        (ONE_BUDGET, "full", "it.json has no mode 'full'", "leave --mode out"),
    ],
)
def test_a_mode_that_is_not_there_is_refused(family, mode, said, hint):
    with pytest.raises(UsageError) as caught:
        family.member(mode, BOARD, "it.json")
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(BadFile, match="was made for Board; Phone, and none of these is Other") as caught:
        FAMILY.member("low", BOARD.model_copy(update={"device_model": "Other"}), "it.json")
    assert "--table" in caught.value.hint
    assert caught.value.details == {"devices": ["Board", "Phone"]}


def test_a_member_is_found_by_its_latency_table():
    assert FAMILY.member_of_table("low", "b" * 64) is FAMILY.members[3]
    assert ONE_BUDGET.member_of_table(None, "b" * 64) is ONE_BUDGET.members[1]
    with pytest.raises(BadFile, match="no member of the family was made with this latency table"):
        FAMILY.member_of_table("low", "c" * 64)
    with pytest.raises(UsageError, match="has the modes full, low"):
        FAMILY.member_of_table(None, "b" * 64)


@given(at=st.integers(0, len(FAMILY.to_bytes()) - 1), byte=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_is_changed_it_is_a_family_or_refused(at, byte, cut):
    data = bytearray(FAMILY.to_bytes())
    if cut:
        del data[at : at + byte]
    else:
        data[at] = byte
    with contextlib.suppress(BadFile):
        Family.from_bytes(bytes(data), "it").to_bytes()


@given(
    path=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    value=st.sampled_from(
        [None, True, -1, 1.5, "", "x" * 40, [], {}, [None], {"a": 1}, 10**30, 10**400, 1e308, "x" * 10**5]
    ),
)
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_place_of_a_value_it_is_a_family_or_refused(path, value):
    """Any value anywhere in the tree replaced by one of another kind."""
    whole = json.loads(FAMILY.to_bytes())
    place = whole
    for step in path[:-1]:
        below = list(place) if isinstance(place, dict) else list(range(len(place)))
        inner = place[below[step % len(below)]] if below else None
        if not isinstance(inner, (dict, list)) or not inner:
            break
        place = inner
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    place[keys[path[-1] % len(keys)]] = value
    with contextlib.suppress(BadFile):
        Family.from_bytes(json.dumps(whole).encode(), "it").to_bytes()


def test_a_file_of_millions_of_values_is_refused_before_it_fills_the_memory(tmp_path):
    """Each takes fifty times its two bytes once it is read."""
    whole = json.loads(FAMILY.to_bytes())
    whole["members"][0]["selection"]["alternatives"] = [0] * 4_000_000
    file = tmp_path / "family.json"
    file.write_text(json.dumps(whole, separators=(",", ":")))
    tracemalloc.start()
    with pytest.raises(BadFile, match="it holds 4,000,.* values"):
        Family.from_bytes(file.read_bytes(), "it")
    with pytest.raises(BadFile):
        families.read(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * file.stat().st_size
