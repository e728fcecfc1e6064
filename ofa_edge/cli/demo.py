"""`ofa-edge demo`: the whole pipeline with the embedded supernet, on this machine or a device.

profile -> accuracy and latency models -> select under a budget -> compile -> deploy -> prove
"""

from __future__ import annotations

import time
from typing import Any

from ofa_edge import settings
from ofa_edge.cli import deploying, options, profiling
from ofa_edge.cli.output import fields, milliseconds, size
from ofa_edge.cli.reaching import Reach, reaches

APP = "demo"


@reaches
def demo(
    reach: Reach,
    host: options.Host = "local",
    budget: options.BudgetText = None,
    seed: options.Seed = 0,
) -> None:
    """Profile the embedded supernet's blocks, choose a subnet under a budget, deploy it and prove the promise.

    Without --budget it is the median latency of the best subnets this device can run, so it fits everywhere.
    """
    from ofa_edge.cli import choosing, inputs
    from ofa_edge.cli.makers import Ready
    from ofa_edge.deploy.assemble import Choice, assemble
    from ofa_edge.deploy.manifest import DEFAULT_MODE
    from ofa_edge.latency.campaign.campaign import Task
    from ofa_edge.latency.conditions import PlanSettings, RunsOn
    from ofa_edge.search import choose
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.exact.frontier import exact_front
    from ofa_edge.weights import checkpoint as checkpoints

    out = reach.out
    start = time.monotonic()
    limits = None if budget is None else Budget.parse(budget)
    checkpoint = checkpoints.load()
    space, runs_on = checkpoint.space, RunsOn()
    accuracy = inputs.accuracy_table(None, checkpoint.sha256, out)
    with reach.open(host) as session:
        profiling.say_device(out, session.facts)
        if session.facts.emulated and (limits is None or limits.latency_ms is not None):
            raise inputs.emulated_times(host)
        path = settings.tables_dir(session.facts.device_model) / f"demo-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
        task = Task(space, space.resolutions, runs_on, PlanSettings(seed=seed, quick=True, networks=12))
        go_on = f"`ofa-edge profile --host {host} --quick --seed {seed} --resume --out {path}`, then select and deploy"
        table = profiling.measure_table(out, session, path, task, go_on=go_on).table
        models = inputs.Models(table, accuracy, seed)
        if limits is None:
            sizes = choose.shared_resolutions(models.latency.resolutions, models.accuracy)
            front = exact_front(space, models.latency, models.accuracy, sizes)
            limits = choose.default_budget(front, models.latency.margin())
            out.say(f"{len(front)} subnets are best for some budget; taking the middle one's: {limits}")
        chosen = choosing.choose_exact(models, limits)
        selection_file = settings.home() / "selections" / f"{path.stem}.json"
        chosen.selection.write(selection_file)
        out.say(f"chosen in {chosen.seconds:.2f} s out of {space.count() * len(space.resolutions):,} subnets")
        bundle = assemble([Choice(chosen.selection, runs_on, table.conditions)], checkpoint, app=APP)
        deployed = deploying.install(
            session,
            Ready(bundle, {DEFAULT_MODE: models.latency}),
            host=host,
            progress=lambda planned: out.say(f"{host}: {planned.step} {planned.detail}".rstrip()),
        ).as_json()
        release = f"{session.root}/{APP}/current"
    value: dict[str, Any] = {
        **deployed,
        "table": str(path),
        "selection": str(selection_file),
        "seconds": round(time.monotonic() - start, 1),
    }
    out.result(value, lambda: _story(value, chosen.as_json(), release))


def _story(value: dict[str, Any], selected: dict[str, Any], release: str) -> str:
    """What was promised, what was measured, and where things lie."""
    arch, predicted = selected["arch"], selected["predicted"]
    latency = predicted["latency_ms"]
    return fields(
        {
            "subnet": f"{arch['r']} px, depth {' '.join(map(str, arch['d']))}, {predicted['macs'] / 1e6:.0f} M MACs, "
            f"{size(predicted['weight_bytes'])}",
            "top-1": f"{100 * predicted['top1']['value']:.1f} %, predicted"
            f" (proven best of the model: {'yes' if selected['proven_optimal'] else 'no'})",
            "budget": milliseconds(value["budget_ms"]),
            "predicted": milliseconds(latency["value"], latency["low"], latency["high"]),
            "measured": f"{milliseconds(value['measured_ms'])} on the device, median of fresh processes",
            "promise": value["promise"],
            "state": f"{value['state']}, release {value['release']}",
            "model": release,
            "table": value["table"],
            "selection": value["selection"],
            "took": f"{value['seconds']:.0f} s",
        }
    )
