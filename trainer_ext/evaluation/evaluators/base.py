"""The evaluator as a Protocol, its settings, and the evaluators by name.

A new one is a file of this folder and a line in EVALUATORS. Two protocols are named in every report:

    voicebench   the official scores, a random choice for unreadable answers included (here seeded), and its share
    strict       an unreadable answer is wrong, and counted
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from data_builders.outcomes import Rejected
from data_builders.registry import load_class
from trainer_ext.evaluation.items import AnsweredItem, ItemScore

PROTOCOLS = ("voicebench", "strict")
METRIC = "evaluate:"  # followed by the name or folder of a metric of the library evaluate
FOLDER = "trainer_ext.evaluation.evaluators"
EVALUATORS = {
    "exact_answer": f"{FOLDER}.exact_answer:ExactAnswer",
    "word_overlap": f"{FOLDER}.word_overlap:WordOverlap",
    "multiple_choice": f"{FOLDER}.multiple_choice:MultipleChoice",
    "bbh": f"{FOLDER}.bbh:BigBenchHard",
    "refusal": f"{FOLDER}.refusal:Refusal",
    "instruction_following": f"{FOLDER}.instruction_following:InstructionFollowing",
    "choice_words": f"{FOLDER}.choice_words:ChoiceWords",
    "word_error_rate": f"{FOLDER}.word_error_rate:WordErrorRate",
    "open_rating": f"{FOLDER}.judged:OpenRating",
    "judged_answer": f"{FOLDER}.judged:JudgedAnswer",
}

LIBRARY = {METRIC: f"{FOLDER}.library_metric:LibraryMetric"}


class Judge(Protocol):
    """A language model that is asked about answers."""

    def check(self) -> None:
        """Raise ServerUnreachable if it cannot be asked now."""
        ...

    def ask(self, prompts: Sequence[str], pattern: str) -> list[list[str] | Rejected]:
        """Return the votes on every prompt, each what the group of `pattern` matched, in lower case."""
        ...


@dataclass(frozen=True)
class EvaluatorSettings:
    """Protocol, seed and judge of all evaluators of a run.

    Attributes:
        protocol: a name of PROTOCOLS.
        keep_misreadings: read the answers that the official code of VoiceBench reads wrongly as it does; only for
            protocol voicebench.
        seed: of random choices.
        judge: None for no judge.
    """

    protocol: str = "voicebench"
    keep_misreadings: bool = True
    seed: int = 0
    judge: Judge | None = None


class Evaluator(Protocol):
    """Gives points to answers."""

    needs_reference: ClassVar[bool]
    needs_judge: ClassVar[bool]

    def __init__(self, settings: EvaluatorSettings) -> None: ...

    def missing(self) -> str | None:
        """Return what it lacks here and how to get it; None if it can run."""
        ...

    def evaluate(self, answered: Sequence[AnsweredItem]) -> list[ItemScore | Rejected]:
        """Return one score per answer, in their order, or the reason why there is none.

        Raises:
            ValueError: an item lacks what this evaluator reads; names it.
        """
        ...


class ItemEvaluator(ABC):
    """An evaluator that scores every answer by itself, and lacks nothing."""

    needs_reference: ClassVar[bool] = False
    needs_judge: ClassVar[bool] = False

    def __init__(self, settings: EvaluatorSettings) -> None:
        self.settings = settings

    def missing(self) -> str | None:
        return None

    def evaluate(self, answered: Sequence[AnsweredItem]) -> list[ItemScore | Rejected]:
        return [self.score(entry) for entry in answered]

    @abstractmethod
    def score(self, entry: AnsweredItem) -> ItemScore:
        """Return the score of one answer.

        Raises:
            ValueError: the item lacks what this evaluator reads; names it.
        """


def load_evaluator(name: str, settings: EvaluatorSettings | None = None) -> Evaluator:
    """Load an evaluator of EVALUATORS, or a metric of the library evaluate ("evaluate:exact_match").

    Raises:
        ValueError: the name is not registered.
    """
    settings = settings or EvaluatorSettings()
    if name.startswith(METRIC):
        return load_class(LIBRARY, METRIC, "evaluator")(name.removeprefix(METRIC))
    return load_class(EVALUATORS, name, "evaluator")(settings)


def check_evaluator(name: str) -> None:
    """Raise ValueError for an unknown name, before anything is loaded."""
    if name not in EVALUATORS and not name.startswith(METRIC):
        raise ValueError(
            f"evaluator: unknown {name!r}; known are {', '.join(EVALUATORS)} and {METRIC}<metric of the library>"
        )


def require_reference(answered: AnsweredItem) -> str:
    """Return the item's reference.

    Raises:
        ValueError: there is none.
    """
    if not answered.item.reference:
        raise ValueError(f"{answered.item.benchmark}: item {answered.item.id} has no reference to compare with")
    return answered.item.reference


def read_detail(answered: AnsweredItem, name: str) -> Any:
    """Return a value of the item's details.

    Raises:
        ValueError: it is not there.
    """
    if name not in answered.item.details:
        raise ValueError(
            f"{answered.item.benchmark}: item {answered.item.id} has no {name!r}; the columns of the data set differ "
            "from the published ones"
        )
    return answered.item.details[name]
