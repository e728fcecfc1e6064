"""The parts of the page about latency: per block, predicted against measured, MACs as a proxy, the tables' health.

In: devices and what proxies.py found. Out: `Section`s. Rules kept: as in choice_sections.py; what was measured and what
is predicted differ in shape, not only in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ofa_edge.latency.judging.health import Level, Problem, precision
from ofa_edge.latency.judging.verdicts import counts
from ofa_edge.report import drawings, figures
from ofa_edge.report.axes import Frame
from ofa_edge.report.choice_sections import Content, Section, ends, lines_of
from ofa_edge.report.choices import Pick
from ofa_edge.report.devices import Device, Network, fixed, milliseconds, networks, percent
from ofa_edge.report.drawings import BlockTime
from ofa_edge.report.figures import Point
from ofa_edge.report.markup import Child, Markup, definitions, details, element, items, joined, paragraph, table
from ofa_edge.report.proxies import EQUAL, SAMPLE, Likeness, Proxy, likenesses, proxies
from ofa_edge.space.arch import Arch

_PANEL = 380.0
_STOPS = 6
_MOST_DRAWN = 12


# -- per block ------------------------------------------------------------------------------------
def blocks(content: Content) -> Section:
    """How long each block of the chosen subnets takes."""
    title = "Latency per block"
    if not content.picks:
        words = "Give selections with the latency tables they were made with."
        return Section("blocks", title, None, (words,))
    panels: list[Child] = []
    missing: list[str] = []
    drawn: set[tuple[Arch, Device | None]] = set()
    for pick in content.picks:
        if (pick.arch, pick.device) in drawn:
            continue
        drawn.add((pick.arch, pick.device))
        times = _times(pick)
        if times and len(panels) == _MOST_DRAWN:
            missing.append(f"Only the first {_MOST_DRAWN} are drawn; give fewer selections to see the others.")
            break
        if times:
            panels.append(_block_panel(pick, times))
        elif pick.device is None:
            missing.append(f"Subnet {pick.number} ({pick.origin}): give the latency table it was chosen with.")
        else:
            missing.append(f"Subnet {pick.number}: the table of {pick.device.name} holds no times of single blocks.")
    body = joined([_blocks_caption(), element("div", {"class": "grid"}, *panels)]) if panels else None
    return Section("blocks", title, body, tuple(missing))


def _blocks_caption() -> Markup:
    return paragraph(
        "Each block as it was measured alone: the median in ms, with the 95 % interval of its measurement. Numbers are "
        "stage.place; stem and head are grey. A dashed bar and ~ mean that the table predicts the block. Every figure "
        "has a scale of its own.",
        class_="quiet",
    )


def _times(pick: Pick) -> list[BlockTime]:
    """Of every block of a chosen subnet; empty where its table holds none or one of them cannot be told."""
    device = pick.device
    if device is None or device.model is None or device.table.blocks.empty:
        return []
    known, measured = device.model.times, device.table.blocks
    layers = device.model.space.layers(pick.arch)
    if not known.knows([layer.block for layer in layers]):
        return []
    found = []
    for layer in layers:
        time, key = known.get(layer.block), layer.block.key
        low = high = None
        if key in measured.index:
            low, high = measured.loc[key, ["low", "high"]].to_numpy(float).tolist()
        elif time.error > 0:
            low, high = time.ms * max(0.0, 1 - 2 * time.error), time.ms * (1 + 2 * time.error)
        if low is not None and high is not None and (math.isnan(low) or math.isnan(high)):
            low = high = None
        choice = drawings.choice_at(pick.arch, layer.path)
        if math.isfinite(time.ms):
            found.append(BlockTime(layer, choice, time.ms, low, high, key in measured.index))
    return found


def _block_panel(pick: Pick, times: Sequence[BlockTime]) -> Markup:
    total = sum(time.ms for time in times)
    name = f"{pick.number} · {pick.name}"
    caption = lines_of(
        element("strong", None, name),
        f"blocks alone {fixed(total)} ms; the whole network, predicted: {milliseconds(pick.candidate.latency_ms)}",
    )
    picture = drawings.bars(times, f"blocks{pick.number}", f"Latency per block of subnet {name}")
    rows: list[list[Child]] = [
        [t.name, f"{t.ms:.4g}", ends(t.low, t.high), f"{t.ms / total:.1%}", "yes" if t.measured else "no"]
        for t in times
    ]
    headers = ["block", "ms", "interval", "share", "measured"]
    rows_of = table(f"Blocks of subnet {pick.number}", headers, rows, right=["ms", "share"])
    return figures.figure(caption, picture, details("Data", rows_of))


# -- predicted against measured -------------------------------------------------------------------
def predictions(content: Content) -> Section:
    """The tables' own networks: what is predicted of them against what was measured."""
    title = "Predicted against measured"
    if not content.devices:
        return Section("predictions", title, None, ("Give latency tables: `ofa-edge profile --out FILE`.",))
    panels, missing = [], []
    for device in content.devices:
        found = networks(device, content.confidence)
        if found:
            panels.append(_prediction_panel(content, device, found))
        else:
            missing.append(f"{device.name}: its table holds no whole networks; `ofa-edge profile --networks 12` does.")
    caption = paragraph(
        "Whole networks that were measured beside the blocks. Height: how far the prediction lies above what was "
        f"measured; upright lines: its {content.interval}, which holds where it crosses 0. Filled: networks the model "
        "is calibrated on; hollow: held out, never fitted.",
        class_="quiet",
    )
    body = joined([caption, element("div", {"class": "grid"}, *panels)]) if panels else None
    return Section("predictions", title, body, tuple(missing))


def _prediction_panel(content: Content, device: Device, found: Sequence[Network]) -> Markup:
    frame, shown = _errors(device, found)
    ident = f"predictions{device.index}"
    said = _accuracy_of(device, found)
    title = f"Error of predicted latency on {device.name}"
    size = (frame.width, frame.height)
    layers = [frame.draw(), figures.level(frame, 0.0), figures.points(frame, shown), figures.stops(frame, shown)]
    picture = figures.svg(ident, size, title, "; ".join(said), *layers)
    headers = ["network", "role", "measured, ms", "interval of it", "predicted, ms", "interval", "error"]
    rows: list[list[Child]] = [
        [
            _brief(n.arch),
            "held out" if n.held_out else "calibration",
            f"{n.measured.value:.4g}",
            ends(n.measured.low, n.measured.high),
            f"{n.predicted.value:.4g}",
            ends(n.predicted.low, n.predicted.high),
            f"{100 * n.error:+.1f} %",
        ]
        for n in found
    ]
    data = table(f"Networks measured on {device.name}", headers, rows, right=["measured, ms", "predicted, ms", "error"])
    caption = lines_of(element("strong", None, device.name), *said)
    return figures.figure(caption, picture, details("Data", data))


def _errors(device: Device, found: Sequence[Network]) -> tuple[Frame, list[Point]]:
    reached = {id(n) for n in sorted(found, key=lambda n: -abs(n.error))[:_STOPS]}
    shown = []
    for n in found:
        low, high = n.predicted.low, n.predicted.high
        known = low is not None and high is not None
        ends = ((low or 0.0) / n.measured.value, (high or 0.0) / n.measured.value)
        lines = (
            f"{'held out' if n.held_out else 'calibration'}: {_brief(n.arch)}",
            f"measured {milliseconds(n.measured)}",
            f"predicted {milliseconds(n.predicted)}",
        )
        shown.append(
            Point(
                n.measured.value,
                100 * n.error,
                device.series,
                lines if id(n) in reached else (),
                y_range=(100 * (ends[0] - 1), 100 * (ends[1] - 1)) if known else None,
                hollow=n.held_out,
            )
        )
    ys = [end for p in shown for end in (p.y, *(p.y_range or ()))]
    frame = Frame.of(_PANEL, 280, [p.x for p in shown], ys, ("measured, ms", "prediction above measured, %"), zero=True)
    return frame, shown


def _accuracy_of(device: Device, found: Sequence[Network]) -> list[str]:
    """Sentences: errors of the fit, left out one by one, and held out."""
    fitted = [n for n in found if not n.held_out]
    held = [n for n in found if n.held_out]
    said = []
    if fitted:
        error = float(np.mean([abs(n.error) for n in fitted]))
        loo = device.model.fit.loo_error if device.model is not None else None
        left_out = "" if loo is None else f", {percent(loo)} when each is left out of the fit"
        said.append(f"{len(fitted)} calibration networks: mean error {percent(error)}{left_out}")
    if held:
        error, worst = float(np.mean([abs(n.error) for n in held])), max(abs(n.error) for n in held)
        covered = [n.covered for n in held if n.covered is not None]
        inside = f", {sum(covered)} of {len(covered)} within their interval" if covered else ""
        said.append(f"{len(held)} held out: mean error {percent(error)}, worst {percent(worst)}{inside}")
    else:
        said.append("none held out")
    return said


def _brief(arch: Arch) -> str:
    return f"{arch.resolution} px, depths {' '.join(map(str, arch.depths))}"


# -- MACs -----------------------------------------------------------------------------------------
def macs(content: Content) -> Section:
    """How poor a proxy MACs are, and one device for another."""
    title = "MACs against latency"
    if not content.devices:
        return Section("macs", title, None, ("Give latency tables: `ofa-edge profile --out FILE`.",))
    found = proxies(content.devices)
    if not found:
        return Section("macs", title, None, ("No model could be fitted to the tables; their health says why.",))
    caption = paragraph(
        f"{SAMPLE:,} subnets drawn from the space: MACs and the latency that the table predicts. The two that are "
        "joined have MACs within 2 % of each other.",
        class_="quiet",
    )
    panels = [_macs_panel(proxy) for proxy in found]
    body = [caption, element("div", {"class": "grid"}, *panels), _alike(likenesses(content.devices))]
    return Section("macs", title, joined(body))


def _macs_panel(proxy: Proxy) -> Markup:
    device, millions = proxy.device, proxy.macs / 1e6
    frame = Frame.of(
        _PANEL, 280, millions.tolist(), [0.0, *proxy.latency_ms.tolist()], ("MACs, millions", "predicted latency, ms")
    )
    pair = [
        Point(
            float(millions[i]),
            float(proxy.latency_ms[i]),
            device.series,
            (f"{millions[i]:.1f} M MACs", f"{fixed(float(proxy.latency_ms[i]))} ms"),
        )
        for i in proxy.pair or ()
    ]
    layers: list[Child] = [frame.draw(), figures.dots(frame, device.series, millions, proxy.latency_ms)]
    if len(pair) == 2:
        layers.append(figures.join(frame, pair[0], pair[1]))
    layers += [figures.points(frame, pair), figures.stops(frame, pair)]
    said = _proxy_words(proxy)
    title = f"MACs against latency on {device.name}"
    picture = figures.svg(f"macs{device.index}", (frame.width, frame.height), title, "; ".join(said), *layers)
    caption = lines_of(element("strong", None, device.name), *said)
    return figures.figure(caption, picture, details("Data", _deciles(proxy)))


def _proxy_words(proxy: Proxy) -> list[str]:
    said = []
    if not math.isnan(proxy.rank):
        said.append(f"rank correlation {proxy.rank:.3f}")
    if not math.isnan(proxy.spread):
        said.append(
            f"at equal MACs (within {percent(EQUAL, 0)}) the slow ones (95th percentile) take "
            f"{percent(proxy.spread, 0)} longer than the fast ones (5th)"
        )
    if proxy.pair is not None:
        ratio = float(proxy.latency_ms[proxy.pair[1]] / proxy.latency_ms[proxy.pair[0]])
        said.append(f"the two that are joined differ by {percent(ratio - 1, 0)}")
    return said


def _deciles(proxy: Proxy) -> Markup:
    """The sample in ten parts of rising MACs."""
    parts = np.array_split(np.argsort(proxy.macs, kind="stable"), 10)
    headers = ["MACs, M", "fastest, ms", "median, ms", "slowest, ms"]
    rows: list[list[Child]] = []
    for part in parts:
        low, high = proxy.macs[part[0]] / 1e6, proxy.macs[part[-1]] / 1e6
        times = proxy.latency_ms[part]
        rows.append([f"{low:.1f} to {high:.1f}", *(f"{f(times):.4g}" for f in (np.min, np.median, np.max))])
    return table(f"{proxy.device.name}: tenths of the sample", headers, rows, right=headers)


def _alike(found: Sequence[Likeness]) -> Markup | None:
    if not found:
        return None
    rows: list[list[Child]] = []
    for pair in found:
        blocks = pair.blocks
        change = "-" if blocks is None else _slower(blocks.scale)
        left = (
            "-"
            if blocks is None
            else f"{percent(blocks.scaled.median)} (median), {percent(blocks.scaled.p90)} (9 in 10)"
        )
        rank = "-" if pair.rank is None else f"{pair.rank:.3f}"
        rows.append([pair.a.name, pair.b.name, change, left, rank])
    headers = ["A", "B", "B to A", "blocks differ beyond that by", "rank correlation of subnets"]
    words = paragraph(
        "If one device were another times a factor, the last column would be 1 and the one before it 0 %: then one "
        "table would do for both."
    )
    return joined(
        [element("h3", None, "One device as a proxy for another"), words, table("Pairs of devices", headers, rows)]
    )


def _slower(scale: float) -> str:
    if scale >= 1:
        return f"{percent(scale - 1)} slower" if scale < 2 else f"{scale:.1f} times slower"
    return f"{percent(1 - scale)} faster" if scale > 0.5 else f"{1 / scale:.1f} times faster"


# -- health ---------------------------------------------------------------------------------------
def health(content: Content) -> Section:
    """What is wrong with the tables, what they were measured on, and when."""
    title = "Health of the latency tables"
    if not content.devices:
        return Section("health", title, None, ("Give latency tables: `ofa-edge profile --out FILE`.",))
    cards = [_health_card(device) for device in content.devices]
    return Section("health", title, element("div", {"class": "grid"}, *cards))


def _health_card(device: Device) -> Markup:
    report, table_ = device.health, device.table
    verdict = "no verdict" if report.verdict is None else str(report.verdict)
    if report.of(Level.INVALID):
        verdict = "invalid"
    parts: list[Child] = [
        element("h3", None, device.name),
        paragraph("Verdict: ", element("span", {"class": "verdict"}, verdict)),
        _problems(report.problems),
        definitions(_rows_of(device)),
    ]
    conditions = table_.conditions.model_dump(mode="json")
    provenance = table_.header.provenance.model_dump(mode="json")
    for name, values in (("Conditions", conditions), ("Provenance", provenance)):
        pairs = [(key.replace("_", " "), _plain(value)) for key, value in values.items()]
        parts.append(details(name, definitions(pairs)))
    return element("section", {"class": "card"}, *parts)


def _problems(found: Sequence[Problem]) -> Markup:
    if not found:
        return paragraph("Nothing is wrong with it.")
    return items(
        joined(
            [
                element("strong", None, f"{problem.level}: {problem.code}"),
                f" {problem.text}",
                f" ({problem.notice.hint})" if problem.notice.hint else None,
            ]
        )
        for problem in found
    )


def _rows_of(device: Device) -> list[tuple[str, Child]]:
    table_ = device.table
    roles = table_.networks["role"].tolist()
    within = precision(table_)
    shares = [f"±{p} %: {percent(share, 0)}" for p in (1, 2) if (share := within[f"within_{p}_pct"]) is not None]
    failed = len(table_.failed_blocks)
    verdicts = ", ".join(f"{count} {name}" for name, count in counts(table_.blocks).items() if count)
    sizes = table_.header.resolutions
    return [
        ("space", f"{table_.header.space} at {', '.join(map(str, sizes[:6]))}{' …' if len(sizes) > 6 else ''} px"),
        (
            "blocks",
            f"{len(table_.blocks)} measured, {len(table_.predicted)} predicted, {failed} failed",
        ),
        ("of these", verdicts or "none measured"),
        ("intervals", "; ".join(shares) + " of the blocks" if shares else "unknown"),
        ("networks", f"{roles.count('calibration')} to calibrate on, {roles.count('holdout')} held out"),
        ("state", "finished" if table_.complete else "not finished"),
        ("sha256", element("code", None, table_.sha256)),
    ]


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
