"""The only place that writes to the terminal: data to stdout, talk and progress to stderr.

In: plain values (dicts of JSON types, dataclasses, paths) and sentences. Out: with --json exactly one
JSON value on stdout, else text; on stderr notes, and a bar where it is a terminal or sparse plain lines
where it is not. Rules kept: nothing but the result reaches stdout; NO_COLOR and TERM=dumb are honoured;
JSON never holds NaN or Infinity; times are ms and sizes are bytes until they are rendered here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from ofa_edge import strict_json
from ofa_edge.errors import OfaEdgeError

# Without a terminal a line is printed each time this share of the work is done, so that a log stays short.
_PLAIN_STEP = 0.1


class Bar(Protocol):
    """What a running task reports to."""

    def advance(self, count: int = 1, detail: str = "") -> None:
        """`count` more items are done; `detail` says which, in a few words."""

    def note(self, text: str) -> None:
        """Print a line without tearing the bar."""


class _Answer:
    """Whether a stdout has its one value already."""

    given = False


# The process's stdout is one, however many Outputs a command and `main` make of it.
_process = _Answer()


def fresh() -> None:
    """A new run begins: stdout may take a value again. `main` calls it, for tests that run it many times."""
    _process.given = False


# Lines of several threads (a command on several devices) stay whole.
_lines = threading.Lock()


class Output:
    """One command's voice. Made once per command from its --json flag.

    Args:
        as_json: print the result as JSON, with no other byte on stdout.
        about: what its talk is about, before every line; such as a device.
        stdout, stderr, environ: the process's own where left out.
    """

    def __init__(
        self,
        as_json: bool = False,
        *,
        about: str = "",
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
    ):
        self.as_json = as_json
        self._about = f"{about}: " if about else ""
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        environ = os.environ if environ is None else environ
        terminal = self._stderr.isatty() and environ.get("TERM") != "dumb"
        self._animate = terminal
        self._colour = terminal and not environ.get("NO_COLOR")
        self._bar: Bar | None = None
        self._answer = _process if stdout is None else _Answer()

    # -- data -------------------------------------------------------------------------------------
    def result(self, value: Any, text: str | Callable[[], str] | None = None) -> None:
        """Print the command's one result: `value` with --json, else `text` (or `value` as lines).

        Raises:
            RuntimeError: a second result, which would make stdout two JSON values.
            ValueError: the value holds NaN or Infinity.
        """
        if self._answer.given:
            raise RuntimeError("a command prints one result")
        self._answer.given = True
        if self.as_json:
            line = to_json(value)
        elif text is None:
            line = as_lines(strict_json.loads(to_json(value)))
        else:
            line = text() if callable(text) else text
        self._write_data(printable(line))

    def failure(self, error: OfaEdgeError) -> None:
        """Say what went wrong and what to type next; with --json also as the `error` value on stdout, unless the
        command's result stands there already."""
        self.answer(error)
        self._say(f"{self._paint('error:', '31;1')} {printable(error.message)}")
        if error.hint:
            self._say(f"{self._paint('hint:', '36')} {printable(error.hint)}")

    def answer(self, error: OfaEdgeError) -> None:
        """With --json the `error` value, unless the command's result stands there already; else nothing."""
        if self.as_json and not self._answer.given:
            self._answer.given = True
            self._write_data(to_json({"error": error.as_json()}))

    def _write_data(self, line: str) -> None:
        try:
            print(line, file=self._stdout, flush=True)
        except BrokenPipeError:
            # The reader (`| head`) has what it wanted. Point stdout at nothing, so that Python's own flush
            # at exit does not complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    # -- talk -------------------------------------------------------------------------------------
    def say(self, text: str) -> None:
        """A line about what is being done."""
        self._say(printable(self._about + text))

    def notice(self, text: str) -> None:
        """Something the user did not ask about but should know."""
        self._say(f"{self._paint('note:', '36')} {printable(self._about + text)}")

    def warning(self, text: str) -> None:
        """Something that may make the result less than it seems."""
        self._say(f"{self._paint('warning:', '33')} {printable(self._about + text)}")

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Bar]:
        """A bar over `total` items, on stderr. Notices printed meanwhile appear above it.

        Example:
            with out.progress("profile", len(blocks)) as bar:
                for block in blocks:
                    bar.advance(detail=block.type)
        """
        if self._bar is not None:
            raise RuntimeError("one bar at a time")
        bars = _rich_bar(self._stderr, label, total) if self._animate else _plain_bar(self._stderr, label, total)
        with bars as bar:
            self._bar = bar
            try:
                yield bar
            finally:
                self._bar = None

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.note(line)
        else:
            with _lines:
                print(line, file=self._stderr, flush=True)

    def _paint(self, word: str, ansi: str) -> str:
        return f"\x1b[{ansi}m{word}\x1b[0m" if self._colour else word


# -- bars -------------------------------------------------------------------------------------------
class _PlainBar:
    """Lines at every tenth of the work, for logs and pipes."""

    def __init__(self, stream: TextIO, label: str, total: int):
        self._stream, self._label, self._total = stream, label, total
        self._done = 0
        self._next = _PLAIN_STEP

    def advance(self, count: int = 1, detail: str = "") -> None:
        self._done += count
        share = self._done / self._total if self._total else 1.0
        # A hair of slack: ten tenths of 30 items must be ten lines, not nine.
        if share + 1e-9 >= self._next:
            self.note(f"{self._label}: {self._done}/{self._total}{f'  {detail}' if detail else ''}")
            self._next = (int(share / _PLAIN_STEP + 1e-9) + 1) * _PLAIN_STEP

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


@contextmanager
def _plain_bar(stream: TextIO, label: str, total: int) -> Iterator[Bar]:
    bar = _PlainBar(stream, label, total)
    bar.note(f"{label}: 0/{total}")
    yield bar


@contextmanager
def _rich_bar(stream: TextIO, label: str, total: int) -> Iterator[Bar]:
    """A live bar with remaining time. rich is imported here, so that --help and pipes never pay for it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    ]
    with Progress(*columns, console=Console(file=stream), transient=False) as progress:
        task = progress.add_task(label, total=total, detail="")

        class RichBar:
            def advance(self, count: int = 1, detail: str = "") -> None:
                progress.update(task, advance=count, detail=detail)

            def note(self, text: str) -> None:
                progress.console.print(Text.from_ansi(text))

        yield RichBar()


# -- rendering --------------------------------------------------------------------------------------
def printable(text: str) -> str:
    """Text that a terminal may show: names out of files could hold control sequences, or what no encoding has."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def to_json(value: Any) -> str:
    """One line of strict JSON in ASCII. Dataclasses become objects, paths strings, tuples lists.

    Raises:
        ValueError: NaN or Infinity. TypeError: something that has no JSON form.
    """
    return json.dumps(value, allow_nan=False, default=_jsonable)


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def as_lines(value: Any) -> str:
    """JSON types as aligned `key  value` lines; lists of values as one block each."""
    if isinstance(value, list):
        return "\n\n".join(as_lines(item) for item in value) if value else "(none)"
    if not isinstance(value, dict):
        return _cell(value)
    return fields({key.replace("_", " "): _cell(item) for key, item in value.items()})


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(v, (str, int, float)) for v in value):
        return " ".join(map(_cell, value))
    return to_json(value) if isinstance(value, (list, dict)) else str(value)


def fields(pairs: Mapping[str, str]) -> str:
    """Names and values in two columns."""
    width = max(map(len, pairs), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in pairs.items())


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> str:
    """Rows under headers, two spaces apart, no lines drawn; columns named in `right` align right."""
    cells = [list(headers), *([cell if isinstance(cell, str) else _cell(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = []
    for row in cells:
        padded = (
            f"{cell:>{width}}" if header in right else f"{cell:<{width}}"
            for cell, width, header in zip(row, widths, headers, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def milliseconds(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """'12.3 ms', with the interval where both ends are known."""
    if value is None:
        return "-"
    text = f"{value:.3g} ms" if value < 1 else f"{value:.2f} ms"
    return f"{text} ({low:.2f} to {high:.2f})" if low is not None and high is not None else text


def size(value: int) -> str:
    """Bytes in decimal units, as budgets are written: 7.9 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value} B"
