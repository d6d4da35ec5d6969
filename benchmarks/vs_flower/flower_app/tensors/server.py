"""Federated averaging by Flower's own strategy; notes when each round begins and ends."""

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from tensors.journal import note

app = ServerApp()


class Timed(FedAvg):
    """Flower's FedAvg, unchanged but for the notes."""

    def __init__(self, journal: str, **options: float) -> None:
        super().__init__(**options)
        self._journal = journal

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note the beginning."""
        note(self._journal, "round_begins", round=server_round)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note the end."""
        replies = list(replies)
        failed = [str(reply.error) for reply in replies if reply.has_error()]
        result = super().aggregate_train(server_round, replies)
        delivered = len(replies) - len(failed)
        note(
            self._journal,
            "round_ends",
            round=server_round,
            delivered=delivered,
            failed=failed,
            aggregated=result[0] is not None,
        )
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    settings = context.run_config
    tensors, values = int(settings["tensors"]), int(settings["values"])
    start = ArrayRecord([np.zeros(values // tensors, np.float32) for _ in range(tensors)])
    strategy = Timed(str(settings["journal"]), fraction_evaluate=0.0)
    strategy.start(
        grid=grid,
        initial_arrays=start,
        num_rounds=int(settings["rounds"]),
        train_config=ConfigRecord({"train-seconds": float(settings["train-seconds"])}),
        timeout=float(settings["timeout"]),
    )
    note(str(settings["journal"]), "ended")
