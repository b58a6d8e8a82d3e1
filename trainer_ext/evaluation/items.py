"""An evaluation item, an answer to it, and its score: what passes between the stages.

benchmark -> Item -> answer in a modality -> AnsweredItem -> evaluator -> ItemScore -> statistics, report
"""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

# modality of a question -> the channel that encodes it
MODALITIES = {"text": "t2t", "speech": "s2t", "audio": "a2t"}
STOP, LENGTH, REFUSED = "stop", "length", "refused"


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, in every modality that the benchmark has.

    Attributes:
        id: unique in its benchmark.
        question_id: equal for recordings of one question, which is asked once in writing.
        group: split, domain, accent or task; a report has a line for each.
        question: the question in writing; empty where a benchmark has the clip alone.
        reference: the right answer, where there is one.
        choices: of a multiple choice question.
        details: what the benchmark's evaluator reads beyond that, as JSON.
    """

    id: str
    question_id: str
    benchmark: str
    group: str
    question: str
    system: str = ""
    reference: str | None = None
    choices: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Item":
        return cls(**{**values, "choices": tuple(values["choices"])})


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Attributes:
        finish_reason: "stop", "length", or "refused" if the model could not be asked; `detail` says why.
        tokens: generated, the end of the turn included; None where a server does not tell.
        seconds: this answer's part of its batch's time.
    """

    text: str
    finish_reason: str
    tokens: int | None = None
    seconds: float = 0.0
    detail: str = ""


class AnsweredItem(NamedTuple):
    """A question, the modality that it was asked in, and the answer."""

    item: Item
    modality: str
    answer: Answer


@dataclass(frozen=True)
class ItemScore:
    """The score of one answer.

    A benchmark's score is the mean over parts of 100 * sum(points) / sum(possible points), so that one form serves
    accuracies, ratings and counts of followed instructions.

    Attributes:
        parts: part -> (points, possible points).
        read_as: what the evaluator took the answer for; empty if it does not say.
        unreadable: nothing could be read from the answer.
        guessed: the points are those of a random choice in the place of an unreadable answer.
    """

    parts: dict[str, tuple[float, float]]
    read_as: str = ""
    unreadable: bool = False
    guessed: bool = False

    @property
    def share(self) -> float:
        """The points of this item alone, in [0, 1]."""
        shares = [points / possible for points, possible in self.parts.values() if possible]
        return sum(shares) / len(shares) if shares else 0.0


def one_part(points: float, possible: float = 1.0, **facts: Any) -> ItemScore:
    """Return a score with a single part."""
    return ItemScore({"score": (points, possible)}, **facts)
