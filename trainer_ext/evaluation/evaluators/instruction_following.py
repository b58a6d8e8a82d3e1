"""IFEval: the instructions that an answer follows, by Google's checks in the library if-verifiable.

VoiceBench's score is the mean of four shares: answers that follow all of their instructions, and instructions followed,
each strictly and loosely (without the first or last line, or without asterisks).
"""

from collections.abc import Sequence
from typing import Any

from trainer_ext.evaluation.evaluators.base import ItemEvaluator, read_detail
from trainer_ext.evaluation.evaluators.phrases import strip_answer_number
from trainer_ext.evaluation.items import AnsweredItem, ItemScore

HOW_TO_INSTALL = 'if-verifiable: pip install -e ".[eval]"'
HOW_TO_LOAD_SENTENCES = "the sentence splitter of nltk: python -m nltk.downloader punkt_tab"


class InstructionFollowing(ItemEvaluator):
    """Points for followed instructions, in four parts."""

    def missing(self) -> str | None:
        try:
            import if_verifiable  # noqa: F401
            import nltk
        except ImportError:
            return HOW_TO_INSTALL
        try:
            nltk.data.find("tokenizers/punkt_tab/english")
        except LookupError:
            return HOW_TO_LOAD_SENTENCES
        return None

    def score(self, entry: AnsweredItem) -> ItemScore:
        import langdetect
        from if_verifiable.common import get_loose_transformations

        langdetect.DetectorFactory.seed = 0  # it draws at random otherwise
        text = strip_answer_number(entry.answer.text)
        if text.endswith("<|user|>"):
            text = text.removesuffix("<|user|>").strip()
        checks = load_checks(entry)
        strict = [follows(check, [text]) for check in checks]
        loose = [follows(check, get_loose_transformations(text)) for check in checks]
        parts = {}
        for name, followed in (("strict", strict), ("loose", loose)):
            parts[f"{name} prompt"] = (float(all(followed)), 1.0)
            parts[f"{name} instruction"] = (float(sum(followed)), float(len(followed)))
        return ItemScore(parts, read_as=f"{sum(strict)} of {len(strict)} strictly", unreadable=not text.strip())


def load_checks(entry: AnsweredItem) -> list[Any]:
    """Return the checks of an item's instructions.

    Raises:
        ValueError: an instruction is unknown.
    """
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    checks = []
    names, arguments = read_detail(entry, "instruction_id_list"), read_detail(entry, "kwargs")
    for name, given in zip(names, arguments, strict=True):
        if name not in INSTRUCTION_DICT:
            raise ValueError(f"{entry.item.benchmark}: item {entry.item.id} has the unknown instruction {name!r}")
        check = INSTRUCTION_DICT[name](name)
        # The columns of all instructions stand in every row; those that are not this one's are empty.
        check.build_description(**{key: value for key, value in given.items() if value})
        if "prompt" in (check.get_instruction_args() or {}):
            check.build_description(prompt=entry.item.question)
        checks.append(check)
    return checks


def follows(check: Any, texts: Sequence[str]) -> bool:
    """Tell whether one of the texts follows an instruction."""
    return any(text.strip() and check.check_following(text) for text in texts)
