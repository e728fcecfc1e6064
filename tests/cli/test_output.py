"""One result on stdout, talk on stderr, colour and bars only on a terminal."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge.cli import output
from ofa_edge.cli.output import Output
from ofa_edge.errors import InfeasibleBudget


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def voice(as_json: bool = False, *, terminal: bool = False, **environ: str) -> tuple[Output, io.StringIO, io.StringIO]:
    stdout, stderr = io.StringIO(), Terminal() if terminal else io.StringIO()
    return Output(as_json, stdout=stdout, stderr=stderr, environ={"TERM": "xterm", **environ}), stdout, stderr


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def test_json_takes_dataclasses_paths_and_numpy() -> None:
    out, stdout, _ = voice(as_json=True)
    out.result({"interval": Interval(1.0, 2.5), "file": Path("a/b"), "n": np.int64(3), "ms": np.float32(0.5)})
    assert json.loads(stdout.getvalue()) == {"interval": {"low": 1.0, "high": 2.5}, "file": "a/b", "n": 3, "ms": 0.5}
    assert stdout.getvalue().count("\n") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan")])
def test_json_never_holds_nan(value: Any) -> None:
    out, stdout, _ = voice(as_json=True)
    with pytest.raises(ValueError, match="JSON"):
        out.result({"ms": value})
    assert stdout.getvalue() == ""


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no JSON form"):
        output.to_json({"s": {1}})


def test_one_result_only() -> None:
    out, _, _ = voice()
    out.result({}, "first")
    with pytest.raises(RuntimeError):
        out.result({}, "second")


def test_text_may_be_made_only_when_it_is_wanted() -> None:
    out, stdout, _ = voice(as_json=True)
    out.result({"a": 1}, lambda: pytest.fail("not asked for"))
    assert stdout.getvalue() == '{"a": 1}\n'


def test_a_value_without_text_becomes_lines() -> None:
    out, stdout, _ = voice()
    out.result({"state": "committed", "measured_ms": 12.34567, "previous": None, "ok": True, "steps": ["a", "b"]})
    assert stdout.getvalue().splitlines() == [
        "state        committed",
        "measured ms  12.35",
        "previous     -",
        "ok           yes",
        "steps        a b",
    ]


def test_a_failure_after_the_result_leaves_stdout_one_value() -> None:
    out, stdout, stderr = voice(as_json=True)
    out.result({"state": "rolled-back"})
    out.failure(InfeasibleBudget("none fits"))
    assert json.loads(stdout.getvalue()) == {"state": "rolled-back"}
    assert "none fits" in stderr.getvalue()


def test_talk_never_reaches_stdout() -> None:
    out, stdout, stderr = voice()
    out.say("looking")
    out.notice("an old table is used")
    out.warning("the machine is busy")
    assert stdout.getvalue() == ""
    assert stderr.getvalue() == "looking\nnote: an old table is used\nwarning: the machine is busy\n"


@pytest.mark.parametrize(
    ("terminal", "environ", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: only when not empty
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_only_on_a_terminal_that_wants_it(terminal: bool, environ: dict[str, str], coloured: bool) -> None:
    out, _, stderr = voice(terminal=terminal, **environ)
    out.notice("x")
    assert ("\x1b[" in stderr.getvalue()) == coloured


@pytest.mark.parametrize(("total", "lines"), [(30, 11), (5, 6), (1000, 11), (0, 1)])
def test_without_a_terminal_progress_is_a_few_lines(total: int, lines: int) -> None:
    out, stdout, stderr = voice()
    with out.progress("profile", total) as bar:
        for _ in range(total):
            bar.advance()
    said = stderr.getvalue().splitlines()
    assert len(said) == lines
    assert said[0] == f"profile: 0/{total}"
    assert said[-1] == f"profile: {total}/{total}"
    assert stdout.getvalue() == ""


def test_on_a_terminal_progress_is_a_bar_with_notes_above_it() -> None:
    out, stdout, stderr = voice(terminal=True)
    with out.progress("profile", 2) as bar:
        bar.advance(detail="[Conv]")
        out.notice("[busy] machine")
        bar.advance()
    said = stderr.getvalue()
    assert "2/2" in said
    assert "[busy] machine" in said
    assert stdout.getvalue() == ""


def test_two_bars_at_once_are_a_mistake() -> None:
    out, _, _ = voice()
    with out.progress("a", 1), pytest.raises(RuntimeError), out.progress("b", 1):
        pass
    with out.progress("c", 1) as bar:
        bar.advance()


def test_tables_align() -> None:
    text = output.table(["name", "ms"], [["a", "1.0"], ["long", 12.5], ["none", None]], right=["ms"])
    assert text.splitlines() == ["name    ms", "a      1.0", "long  12.5", "none     -"]


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999 B"), (1000, "1.0 kB"), (7_940_000, "7.9 MB"), (2_000_000_000, "2.0 GB")]
)
def test_sizes_are_decimal(value: int, text: str) -> None:
    assert output.size(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((12.3456,), "12.35 ms"),
        ((0.04213,), "0.0421 ms"),
        ((12.0, 11.5, 12.75), "12.00 ms (11.50 to 12.75)"),
        ((None,), "-"),
    ],
)
def test_milliseconds(values: tuple[Any, ...], text: str) -> None:
    assert output.milliseconds(*values) == text


def test_a_terminal_obeys_nothing_that_a_file_holds() -> None:
    """Labels, licences and keys come out of files that anybody may have written."""
    stdout, stderr = io.StringIO(), io.StringIO()
    voice = Output(stdout=stdout, stderr=stderr, environ={})
    voice.warning("\x1b]0;title\x07 caf\u00e9")
    voice.failure(InfeasibleBudget("\x1b[2J", hint="\ud800"))
    voice.result({"label": "a\x1b[31mb"})
    assert stderr.getvalue().splitlines() == ["warning:  ]0;title  caf\u00e9", "error:  [2J", "hint:  "]
    assert stdout.getvalue() == "label  a [31mb\n"
