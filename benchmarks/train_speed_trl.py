"""One training by TRL's SFTTrainer, in TRL's own environment; started by ``train_speed.py``.

    python train_speed_trl.py WAY WORKLOAD BASE OUTPUT

WAY is ``defaults`` (nothing set but what defines the task), ``sorted`` (batches of like length in
our order, bfloat16, no gradient checkpointing) or ``packed`` (the same, packed instead of sorted).
Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

WAY, WORKLOAD, BASE, OUTPUT = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
work = json.loads(WORKLOAD.read_text())
recipe = work["recipe"]
rows = [
    {"input_ids": tokens, "completion_mask": [0] * n + [1] * (len(tokens) - n)}
    for tokens, n in work["examples"]
]
own = {
    "defaults": {},
    "sorted": {
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": "bfloat16"},
        "train_sampling_strategy": "sequential",
    },
    "packed": {
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": "bfloat16"},
        "packing": True,
        "max_length": 512,
        "per_device_train_batch_size": 1,
    },
}[WAY]
settings = {
    "output_dir": str(OUTPUT / "trainer"),
    "num_train_epochs": 1,
    "per_device_train_batch_size": recipe["batch_size"],
    "learning_rate": recipe["learning_rate"],
    "lr_scheduler_type": "constant",
    "weight_decay": recipe["weight_decay"],
    "max_grad_norm": recipe["max_grad_norm"],
    "use_cpu": not torch.cuda.is_available(),
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "seed": recipe["seed"],
} | own
trainer = SFTTrainer(
    model=BASE,
    args=SFTConfig(**settings),
    train_dataset=Dataset.from_list(rows),
    peft_config=LoraConfig(
        r=work["rank"],
        lora_alpha=work["alpha"],
        target_modules=work["modules"],
        task_type="CAUSAL_LM",
    ),
)
start, cpu = time.perf_counter(), time.process_time()
trainer.train()
seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
trainer.save_model(str(OUTPUT))
if torch.cuda.is_available():
    peak = torch.cuda.max_memory_allocated()
else:
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak}
print(json.dumps({**found, "steps": trainer.state.global_step}))
