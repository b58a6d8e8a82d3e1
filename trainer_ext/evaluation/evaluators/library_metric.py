"""Any metric of the library evaluate that gives one number for one answer, by its name or its folder."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_builders.outcomes import Rejected
from trainer_ext.evaluation.evaluators.base import require_reference
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part


class LibraryMetric:
    """`evaluate.load(name)`, asked answer by answer, so that differences between models can be paired.

    Raises:
        ValueError: there is no such metric, or its library is not installed.
    """

    needs_reference: ClassVar[bool] = True
    needs_judge: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        import evaluate

        if "/" in name and not Path(name).exists():
            raise ValueError(
                f"evaluator: the metric {name!r} is Python code of a stranger's repository, which is never run here: "
                "name a metric of the library evaluate, or the folder of a copy that you have read"
            )
        self.name = name
        try:
            self.metric = evaluate.load(name, keep_in_memory=True)
        except (FileNotFoundError, ImportError, ConnectionError, OSError) as error:
            raise ValueError(
                f"evaluator: the metric {name!r} cannot be loaded ({' '.join(str(error).split())[:200]}); without a "
                "network, give the folder of a copy"
            ) from error

    def missing(self) -> str | None:
        return None

    def evaluate(self, answered: Sequence[AnsweredItem]) -> list[ItemScore | Rejected]:
        return [one_part(self._compute(entry)) for entry in answered]

    def _compute(self, entry: AnsweredItem) -> float:
        result: dict[str, Any] = self.metric.compute(
            predictions=[entry.answer.text], references=[require_reference(entry)]
        )
        numbers = {key: value for key, value in result.items() if isinstance(value, (int, float))}
        key = self.metric.name if self.metric.name in numbers else next(iter(numbers), None)
        if key is None:
            raise ValueError(f"evaluator: the metric {self.name!r} gives no number, but {', '.join(result)}")
        if not math.isfinite(numbers[key]):
            raise ValueError(f"evaluator: the metric {self.name!r} gives {numbers[key]}")
        return float(numbers[key])
