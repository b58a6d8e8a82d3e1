"""BIG-Bench Hard as VoiceBench asks it: four tasks with two possible answers each."""

import re
from typing import ClassVar

from trainer_ext.evaluation.evaluators.base import ItemEvaluator, read_detail, require_reference
from trainer_ext.evaluation.evaluators.phrases import Rule, apply_rules, guess, read_rules, strip_answer_number
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part

# task -> the lists of its rules, in their order
TASKS = {
    "sports_understanding": ("bbh_yes_no", "bbh_sports_understanding"),
    "hyperbaton": ("bbh_hyperbaton",),
    "navigate": ("bbh_yes_no", "bbh_navigate"),
    "web_of_lies": ("bbh_yes_no", "bbh_web_of_lies"),
}
VALUES = {"no": 0, "yes": 1, "(a)": 0, "(b)": 1}
# Rules of the official code that read an answer as its opposite.
MISREADINGS: tuple[Rule, ...] = (
    ("equals", "b", 0),
    ("ends", "must be lying", 1),
    ("matches", "the sentence (.+?) is not plausible", 1),
)
AS_SPACE = re.compile(r"[:\"\-,.\uff1a]|\*\*")
WORDS = {"hyperbaton": (r"\(a\)|\boption a\b|^a$", r"\(b\)|\boption b\b|^b$")}
YES_NO = (r"\b(?:no|false|not plausible|implausible)\b", r"\b(?:yes|true)\b|(?<!not )\bplausible\b")


class BigBenchHard(ItemEvaluator):
    """A point for the right one of two answers."""

    needs_reference: ClassVar[bool] = True

    def score(self, entry: AnsweredItem) -> ItemScore:
        reference = require_reference(entry).lower()
        if reference not in VALUES:
            raise ValueError(
                f"{entry.item.benchmark}: item {entry.item.id} has the reference {reference!r}; known are "
                f"{', '.join(VALUES)}"
            )
        task = find_task(read_detail(entry, "id"), entry)
        text = normalize(entry.answer.text)
        official = self.settings.protocol == "voicebench"
        value = read_officially(text, task, self.settings.keep_misreadings) if official else read_strictly(text, task)
        guessed = value is None and official
        drawn = guess((0, 1), self.settings.seed, entry.item.id) if guessed else value
        names = ("(a)", "(b)") if task == "hyperbaton" else ("no", "yes")
        return one_part(
            drawn == VALUES[reference],
            read_as="" if drawn is None else names[drawn],
            unreadable=value is None,
            guessed=guessed,
        )


def find_task(source_id: str, entry: AnsweredItem) -> str:
    """Return the task that an id of the data set names.

    Raises:
        ValueError: it names none.
    """
    for task in TASKS:
        if task in source_id:
            return task
    raise ValueError(f"{entry.item.benchmark}: the id {source_id!r} names no task; known are {', '.join(TASKS)}")


def normalize(text: str) -> str:
    """Return the text as the rules expect it: lower case, most punctuation as single spaces."""
    text = text.lower()
    if text.endswith("<|user|>"):
        text = text.removesuffix("<|user|>").strip()
    text = strip_answer_number(text).replace("<|turn_end|>", "")
    return " ".join(AS_SPACE.sub(" ", text).split())


def read_officially(text: str, task: str, keep_misreadings: bool) -> int | None:
    """Return the answer that VoiceBench's code reads; None for none."""
    for name in TASKS[task]:
        if rule := apply_rules(read_rules(name), text):
            return 1 - rule[2] if rule in MISREADINGS and not keep_misreadings else rule[2]
    return None


def read_strictly(text: str, task: str) -> int | None:
    """Return the answer that stands first or last, if only one of the two is named; None otherwise."""
    patterns = WORDS.get(task, YES_NO)
    found = [bool(re.search(pattern, text)) for pattern in patterns]
    return found.index(True) if sum(found) == 1 else None
