"""Two drawings of one subnet: its blocks as they follow each other, and how long each of them takes.

In: a Space, an Arch, times. Out: SVG. Rules kept: the drawings of all subnets of a space have the same rows, so that
two of them differ on the page where the subnets differ; a place that a subnet leaves out is drawn empty; kernel and
expand ratio are written in every block that has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa_edge.report.axes import width_of
from ofa_edge.report.figures import svg
from ofa_edge.report.markup import Child, Markup, element, joined, number
from ofa_edge.report.style import kernel_class
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.space.block import Layer

_COLUMN = 164.0
_ROW, _GAP, _HEADING = 17.0, 2.0, 17.0

_BARS = 360.0
_BAR, _BAR_LABELS, _BAR_VALUES = 15.0, 96.0, 62.0


@dataclass(frozen=True, slots=True)
class BlockTime:
    """How long one block of a subnet takes.

    Attributes:
        layer: the block in its place.
        choice: its kernel and expand ratio; None in stem and head.
        ms: its median, alone; low and high are None where its interval is unknown.
        measured: False where its table predicts it.
    """

    layer: Layer
    choice: BlockChoice | None
    ms: float
    low: float | None
    high: float | None
    measured: bool

    @property
    def name(self) -> str:
        return place_name(self.layer.path, self.choice)


def place_name(path: str, choice: BlockChoice | None) -> str:
    """'3.2 5×5 e4' of the second block of the third stage."""
    parts = path.split(".")
    if parts[0] != "stages" or choice is None:
        return path.replace("_", " ")
    return f"{int(parts[1]) + 1}.{int(parts[2]) + 1} {choice_name(choice)}"


def choice_name(choice: BlockChoice) -> str:
    return f"{choice.kernel}×{choice.kernel} e{number(choice.expand, 2)}"


def choice_at(arch: Arch, path: str) -> BlockChoice | None:
    """The choice of the block at a path; None in stem and head."""
    parts = path.split(".")
    return arch.stages[int(parts[1])][int(parts[2])] if parts[0] == "stages" else None


def describe(arch: Arch) -> str:
    """A subnet in words, as its picture shows it."""
    stages = (f"stage {s}: {', '.join(map(choice_name, stage)) or 'empty'}" for s, stage in enumerate(arch.stages, 1))
    widths = f"; widths {' '.join(map(str, arch.widths))}" if arch.widths else ""
    return f"input {arch.resolution} px; {'; '.join(stages)}{widths}"


# -- the blocks -----------------------------------------------------------------------------------
def subnet(space: Space, arch: Arch, ident: str, title: str) -> Markup:
    """A subnet from its input down to the classifier: kernel as colour, expand ratio as width, depth as the number of
    filled places, resolution as the width of the first bar and in the heading of each stage."""
    layers = {layer.path: layer for layer in space.layers(arch)}
    largest = max(space.resolutions)
    drawn: list[Child] = [_block(0.0, arch.resolution / largest, "kf", f"input {arch.resolution} px")]
    y = _ROW + _GAP
    y = _fixed(drawn, y, "stem, optional block" if arch.stem_depth else "stem")
    expand = max(max(stage.expands) for stage in space.stages)
    for s, (stage, choice) in enumerate(zip(space.stages, arch.stages, strict=True)):
        y += _HEADING
        drawn.append(_heading(y - 4, s, layers.get(f"stages.{s}.0")))
        for i in range(stage.max_depth):
            if i < len(choice):
                found = choice[i]
                drawn.append(_block(y, found.expand / expand, kernel_class(found.kernel), choice_name(found)))
            else:
                drawn.append(_empty(y))
            y += _ROW + _GAP
    y = _fixed(drawn, y + 6, "head")
    return svg(ident, (_COLUMN, y), title, describe(arch), *drawn)


def _fixed(drawn: list[Child], y: float, name: str) -> float:
    drawn.append(_block(y, 0.4, "kf", name))
    return y + _ROW + _GAP


def _block(y: float, share: float, class_: str, text: str) -> Markup:
    width = max(_COLUMN * share, width_of(text) - 8) - 2
    left = (_COLUMN - width) / 2
    rect = element("rect", {"class": f"k {class_}", "x": left, "y": y + 0.5, "width": width, "height": _ROW, "rx": 2})
    return joined([rect, element("text", {"class": "bl m", "x": _COLUMN / 2, "y": y + 12.5}, text)])


def _empty(y: float) -> Markup:
    middle = number(y + _ROW / 2 + 0.5)
    path = f"M{number(_COLUMN / 2 - 14)} {middle}h28"
    return element("path", {"class": "a", "d": path, "stroke-dasharray": "2 4"})


def _heading(y: float, s: int, first: Layer | None) -> Markup:
    block = None if first is None else first.block
    about = "" if block is None else f": {block.in_size}→{block.out_size} px, {block.out_channels} ch"
    return element("text", {"class": "t u m", "x": _COLUMN / 2, "y": y}, f"stage {s + 1}{about}")


def kernel_signs(space: Space) -> list[tuple[Markup, str]]:
    """What the legend says of the blocks' colours and widths."""
    kernels = sorted({kernel for stage in space.stages for kernel in stage.kernels})
    signs = [(_sign(kernel_class(kernel), 30), f"kernel {kernel}×{kernel}") for kernel in kernels]
    expands = sorted({expand for stage in space.stages for expand in stage.expands})
    if len(expands) > 1:
        said = ", ".join(f"e{number(e, 2)}" for e in expands)
        signs.append((_sign("no", 30), f"width: expand ratio ({said})"))
    signs.append((element("path", {"class": "a", "d": "M4 8h28", "stroke-dasharray": "2 4"}), "place left out"))
    return signs


def _sign(class_: str, width: float) -> Markup:
    return element("rect", {"class": f"k {class_}", "x": 18 - width / 2, "y": 2, "width": width, "height": 12, "rx": 2})


# -- their times ----------------------------------------------------------------------------------
def bars(found: Sequence[BlockTime], ident: str, title: str) -> Markup:
    """A bar a block, in their order, with its interval and its value."""
    most = max(max(time.ms, time.high or 0.0) for time in found)
    scale = (_BARS - _BAR_LABELS - _BAR_VALUES) / most
    drawn: list[Child] = []
    for i, time in enumerate(found):
        drawn.append(_bar(time, i * _BAR, scale))
    slowest = max(found, key=lambda time: time.ms)
    total = sum(time.ms for time in found)
    description = f"{len(found)} blocks; the slowest is {slowest.name} with {slowest.ms / total:.0%} of their sum"
    return svg(ident, (_BARS, len(found) * _BAR + 4), title, description, *drawn)


def _bar(time: BlockTime, y: float, scale: float) -> Markup:
    class_ = "kf" if time.choice is None else kernel_class(time.choice.kernel)
    shape = {"x": _BAR_LABELS, "y": y + 2, "width": max(0.5, time.ms * scale), "height": _BAR - 4}
    dashes = None if time.measured else "3 2"
    parts = [
        element("text", {"class": "t u", "x": 0, "y": y + 11.5}, time.name),
        element("rect", {"class": f"k {class_}", "stroke-dasharray": dashes, **shape}),
    ]
    if time.low is not None and time.high is not None:
        middle = y + _BAR / 2
        low, high = _BAR_LABELS + time.low * scale, _BAR_LABELS + time.high * scale
        ends = "".join(f"M{number(x, 1)} {number(middle - 3, 1)}v6" for x in (low, high))
        path = f"M{number(low, 1)} {number(middle, 1)}H{number(high, 1)}{ends}"
        parts.append(element("path", {"class": "i", "d": path}))
    sign = "" if time.measured else "~"
    text = f"{sign}{time.ms:.3f}" if time.ms >= 0.1 else f"{sign}{time.ms:.4f}"
    parts.append(element("text", {"class": "u e", "x": _BARS, "y": y + 11.5}, text))
    return joined(parts)
