"""Cross-modal knowledge distillation as an extension of TRL's trainer."""

import logging
from importlib import import_module
from typing import Any

# bitsandbytes warns of kernels that no CPU needs, when peft imports it; the line reads as a broken installation.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_PUBLIC = {
    "CrossModalDistillConfig": "trainer_ext.arguments",
    "CrossModalDistillTrainer": "trainer_ext.trainer",
    "PairCollator": "trainer_ext.collator",
    "load_student_family": "trainer_ext.students.registry",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'trainer_ext' has no attribute {name!r}")
