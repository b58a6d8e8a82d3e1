"""The phrases by which VoiceBench reads answers, and rules made of them."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

FILE = Path(__file__).with_name("voicebench_phrases.json")
CHOICE = "[CHOICE]"
ANYTHING = "(.+?)"


def matches(phrase: str, text: str) -> bool:
    """Tell whether a line has both sides of the phrase's `(.+?)` with something between them.

    Equal to `re.search`, whose time grows with the square of a line that repeats the left side.
    """
    left, right = phrase.split(ANYTHING)
    start = text.find(left)
    return start >= 0 and text.find(right, start + len(left) + 1) >= 0


TESTS = {
    "contains": lambda phrase, text: phrase in text,
    "equals": lambda phrase, text: phrase == text,
    "starts": lambda phrase, text: text.startswith(phrase),
    "ends": lambda phrase, text: text.endswith(phrase),
    "matches": matches,
}
Option = TypeVar("Option")
Rule = tuple[str, str, int]  # a name of TESTS, a phrase, and 0 for the first of two answers or 1 for the second


@cache
def read_phrases(name: str) -> list[Any]:
    """Read one list of the file."""
    return json.loads(FILE.read_text(encoding="utf-8"))[name]


@cache
def read_rules(name: str) -> tuple[Rule, ...]:
    """Read rules; one with a slot for the choice stands for two, of (a) and of (b)."""
    return tuple(rule for entry in read_phrases(name) for rule in expand_rule(*entry))


def expand_rule(test: str, phrase: str, value: int | None = None) -> Iterator[Rule]:
    """Yield the rules that an entry of the file stands for."""
    if value is not None:
        yield test, phrase, value
        return
    for value, letter in enumerate("ab"):
        yield test, phrase.replace(CHOICE, letter), value


def apply_rules(rules: Sequence[Rule], text: str) -> Rule | None:
    """Return the first rule whose phrase is found; None if none is."""
    return next((rule for rule in rules if TESTS[rule[0]](rule[1], text)), None)


def guess(options: Sequence[Option], seed: int, item_id: str) -> Option:
    """Choose at random; equal for one seed and item, in any order and on any machine."""
    return options[int(sha256(f"{seed}\0{item_id}".encode()).hexdigest(), 16) % len(options)]


def strip_answer_number(text: str) -> str:
    """Remove the number that some servers put before an answer ("<1>")."""
    return text[3:].strip() if text.startswith(("<1>", "<2>", "<3>")) else text
