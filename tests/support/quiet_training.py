"""Training arguments of tests: on the CPU, in float32, without output."""

QUIET = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
}
