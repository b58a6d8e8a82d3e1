"""Evaluators by name. A new one is an `evaluate.Metric` in a file of this folder and one line here."""

from typing import Any, Protocol

from data_builders.registry import load_class

EVALUATORS = {"exact_answer": "trainer_ext.evaluation.exact_answer:ExactAnswer"}


class Evaluator(Protocol):
    """A metric over answers."""

    def compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        """Return a score in percent under the evaluator's registered name."""
        ...


def load_evaluator(name: str) -> Evaluator:
    """Load an evaluator.

    Raises:
        ValueError: the name is not registered.
    """
    return load_class(EVALUATORS, name, "evaluator")(keep_in_memory=True)
