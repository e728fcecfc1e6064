"""One door to the model of a latency table, whatever it holds.

In: a LatencyTable. Out: a LatencyModel: of measured blocks, of measured networks alone (network_model.py), or started
from another device's table (transfer.py). Rules kept: every command comes through here and none asks which it got; a
file holds what was measured and nothing fitted, so the model is fitted again whenever it is read.
"""

from __future__ import annotations

from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.table import LatencyTable


def model_of(table: LatencyTable) -> LatencyModel:
    """The model of a table, finished or not.

    Raises:
        BadFile: the table holds nothing to fit, or networks that are not in its space.
        UsageError: its space is not known here.
    """
    # Each kind with its own module, that nobody waits for the others'.
    if not table.given.empty:
        from ofa_edge.latency.models.imported_model import ImportedModel

        return ImportedModel.from_table(table)
    if table.header.prior is not None:
        from ofa_edge.latency.models import transfer

        return transfer.from_table(table)
    if table.header.plan.predictor == "network":
        from ofa_edge.latency.models.network_model import NetworkModel

        return NetworkModel.from_table(table)
    return LatencyModel.from_table(table)
