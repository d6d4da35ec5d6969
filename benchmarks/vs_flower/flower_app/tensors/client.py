"""A hospital whose training is adding its own constant to every tensor."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from tensors.journal import note

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train for the configured time and answer with the tensors moved."""
    journal = str(context.run_config["journal"])
    hospital = int(context.node_config["hospital"])
    note(journal, "training_begins", hospital=hospital)
    seconds = float(message.content["config"]["train-seconds"])
    moved = [
        array + np.float32(2**hospital) for array in message.content["arrays"].to_numpy_ndarrays()
    ]
    time.sleep(seconds)
    note(journal, "training_ends", hospital=hospital)
    content = RecordDict(
        {"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 100})}
    )
    return Message(content=content, reply_to=message)
