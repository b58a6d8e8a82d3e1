"""The card of a table of soft targets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from data_builders.hub.contents import Contents
from data_builders.hub.folders import SOFT_TARGETS, local_id

TEXT = """---
{data}
---

# {name}

The {k} likeliest ids of `{teacher}` at every token of the answers to {rows} questions, with the log-mass of all others
at temperature {temperatures}. A run of crossmodal-kd learns from them without the teacher in memory
([cross-modal knowledge distillation](https://arxiv.org/abs/2509.14930)):

```bash
accelerate launch recipes/s2t_t2t.py --config my.yaml --teacher_kind stored --soft_targets_path {repository}
```

| | |
|---|---|
| teacher | {teacher}, {scoring_backend} |
| vocabulary | {vocab_size} ids of the tokenizer with hash {tokenizer_hash} |
| kept ids per token | {k} |
| temperatures | {temperatures} |

The rows have the ids and the hashes of questions and answers of the data set that they were made for; not its texts.
The teacher's license holds for them too.
"""


def write_soft_targets_card(folder: Path, name: str, settings: Mapping[str, Any], rows: int) -> None:
    """Write README.md.

    Args:
        settings: of `make_settings`.
    """
    teacher = settings["teacher"].partition("@")[0]
    data = DatasetCardData(
        pretty_name=name,
        tags=["soft-targets", "cross-modal-distillation"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data-*.arrow"}]}],
        **Contents(SOFT_TARGETS.name, teacher).to_metadata(),
    )
    temperatures = ", ".join(f"{tau:g}" for tau in settings["temperatures"])
    facts = {**settings, "temperatures": temperatures, "rows": rows}
    text = TEXT.format(data=data.to_yaml(), name=name, repository=local_id(Path(name)), **facts)
    (folder / "README.md").write_text(str(DatasetCard(text)), encoding="utf-8")
