"""Identity of a run: everything that its weights depend on, by key, so that no run resumes from another one's state.

It is written into every checkpoint. A resumed run compares it with its own and names the keys that differ.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_builders.storage.atomic import write_atomic

IDENTITY = "run.json"
SAMPLED_VALUES = 64  # of every tensor; a model is not read as a whole
KEYS_SHOWN = 5


def write_identity(folder: Path, identity: dict[str, Any]) -> None:
    """Write the identity of a run into a folder."""
    write_atomic(folder / IDENTITY, (json.dumps(identity, indent=1, sort_keys=True) + "\n").encode())


def read_identity(folder: Path) -> dict[str, Any] | None:
    """Return the identity in a folder; None where there is none that can be read."""
    try:
        content = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def describe_differences(saved: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return the keys of two identities that differ, with both values; empty where they are equal."""
    ours = json.loads(json.dumps(ours))  # tuples become lists, as in the file
    keys = [key for key in sorted({*saved, *ours}) if saved.get(key) != ours.get(key)]
    parts = {
        where: {key.partition(".")[0] for key in identity if "." in key}
        for where, identity in (("there", saved), ("here", ours))
    }
    named: list[str] = []
    for part in sorted({key.partition(".")[0] for key in keys if "." in key}):
        for where in parts:
            if part not in parts[where] and len(named) < KEYS_SHOWN:
                named.append(f"{part} is missing {where}")
                keys = [key for key in keys if not key.startswith(f"{part}.")]
    named += [f"{key} is {describe(saved.get(key))} there and {describe(ours.get(key))} here" for key in keys]
    more = f"; and {len(named) - KEYS_SHOWN} more" if len(named) > KEYS_SHOWN else ""
    return "; ".join(named[:KEYS_SHOWN]) + more


def describe(value: Any) -> str:
    """Return a value in at most 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def flatten(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with keys such as `lora.r`; values without a JSON form become text."""
    return json.loads(json.dumps({f"{name}.{key}": value for key, value in values.items()}, default=make_plain))


def make_plain(value: Any) -> Any:
    """Convert what JSON does not know."""
    return sorted(map(str, value)) if isinstance(value, set) else str(value)


@torch.no_grad()
def hash_weights(model: nn.Module) -> str:
    """Return a hash of some values of every floating-point tensor in memory: equal weights on any device are equal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if not tensor.is_floating_point() or tensor.device.type == "meta":
            continue
        values = tensor.detach().flatten()
        sample = values[:: max(1, len(values) // SAMPLED_VALUES)][:SAMPLED_VALUES].float().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
