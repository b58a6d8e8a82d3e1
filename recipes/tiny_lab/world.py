"""Questions and answers of the tiny lab: a few hundred spoken-style questions about a closed set of facts.

Every question has the answer that the teacher is trained on, a gold answer in another style (as in an instruction data
set), and a `reference`: the last words of every correct answer.
"""

import hashlib
import random
from collections import Counter
from typing import NamedTuple

NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
DAYS = [
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
]  # fmt: skip
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip
OPPOSITES = [
    "hot-cold", "big-small", "up-down", "fast-slow", "day-night", "wet-dry", "open-closed", "old-young",
    "happy-sad", "light-dark", "early-late", "hard-soft",
]  # fmt: skip
CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Spain": "Madrid", "Egypt": "Cairo", "Cuba": "Havana",
    "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo", "Greece": "Athens", "Russia": "Moscow", "China": "Beijing",
    "Germany": "Berlin", "Portugal": "Lisbon", "Ireland": "Dublin", "Poland": "Warsaw", "Canada": "Ottawa",
    "Turkey": "Ankara", "Austria": "Vienna", "Hungary": "Budapest",
}  # fmt: skip
COLOURS = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "a banana": "yellow", "the sky": "blue",
    "chocolate": "brown", "a carrot": "orange", "a tomato": "red", "an elephant": "gray", "milk": "white",
    "a frog": "green",
}  # fmt: skip
SOUNDS = {
    "cat": "meows", "dog": "barks", "cow": "moos", "lion": "roars", "duck": "quacks", "snake": "hisses",
    "bee": "buzzes", "wolf": "howls", "horse": "neighs", "bird": "sings",
}  # fmt: skip
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "duck": "duckling",
    "bear": "cub", "goat": "kid",
}  # fmt: skip
GOLD_STYLES = (
    "{reference}",
    "the answer is {reference}",
    "i would say {reference}",
    "it should be {reference}",
)


class Fact(NamedTuple):
    """One question of one topic family, with the teacher's answer."""

    family: str
    question: str
    answer: str
    reference: str


def list_facts() -> list[Fact]:
    """Return all questions in a fixed order; most facts have two wordings."""
    return [*_arithmetic(), *_neighbours(), *_opposites(), *_capitals(), *_colours(), *_animals()]


def _arithmetic():
    small = range(9)
    for a in small:
        for b in small:
            yield from _calculate("sums", f"{NUMBERS[a]} plus {NUMBERS[b]}", NUMBERS[a + b])
            if a >= b:
                yield from _calculate("differences", f"{NUMBERS[a]} minus {NUMBERS[b]}", NUMBERS[a - b])


def _calculate(family: str, term: str, result: str):
    yield Fact(family, f"What is {term}?", f"{term} is {result}.", result)
    yield Fact(family, f"Tell me {term}.", f"{term} is {result}.", result)


def _neighbours():
    for family, names, wraps in (
        ("counting", NUMBERS, False),
        ("days", DAYS, True),
        ("months", MONTHS, True),
    ):
        for here, word in enumerate(names):
            for side, there in (("after", here + 1), ("before", here - 1)):
                if wraps or 0 <= there < len(names):
                    neighbour = names[there % len(names)]
                    answer = f"{side} {word} comes {neighbour}."
                    yield Fact(family, f"What comes {side} {word}?", answer, neighbour)
                    yield Fact(family, f"Tell me what comes {side} {word}.", answer, neighbour)


def _opposites():
    for pair in OPPOSITES:
        for word, other in (pair.split("-"), pair.split("-")[::-1]):
            answer = f"the opposite of {word} is {other}."
            yield Fact("opposites", f"What is the opposite of {word}?", answer, other)
            yield Fact("opposites", f"Tell me the opposite of {word}.", answer, other)


def _capitals():
    for country, city in CAPITALS.items():
        answer = f"the capital of {country} is {city}."
        yield Fact("capitals", f"What is the capital of {country}?", answer, city)
        yield Fact("capitals", f"Tell me the capital of {country}.", answer, city)
        answer = f"{city} is the capital of {country}."
        yield Fact("capitals", f"Which country has the capital {city}?", answer, country)
        yield Fact("capitals", f"What country has the capital {city}?", answer, country)


def _colours():
    for thing, colour in COLOURS.items():
        yield Fact("colours", f"What color is {thing}?", f"{thing} is {colour}.", colour)
        yield Fact("colours", f"Tell me the color of {thing}.", f"{thing} is {colour}.", colour)


def _animals():
    for animal, sound in SOUNDS.items():
        yield Fact("animals", f"What does a {animal} do?", f"a {animal} {sound}.", sound)
        yield Fact("animals", f"Tell me what a {animal} does.", f"a {animal} {sound}.", sound)
        answer = f"the animal that {sound} is the {animal}."
        yield Fact("animals", f"Which animal {sound}?", answer, animal)
        yield Fact("animals", f"What animal {sound}?", answer, animal)
    for parent, child in YOUNG.items():
        answer = f"a young {parent} is called a {child}."
        yield Fact("animals", f"What is a young {parent} called?", answer, child)
        yield Fact("animals", f"Tell me what a young {parent} is called.", answer, child)
        answer = f"a {child} will become a {parent}."
        yield Fact("animals", f"What will a {child} become?", answer, parent)
        yield Fact("animals", f"Tell me what a {child} will become.", answer, parent)


def gold_response(fact: Fact) -> str:
    """Return a correct answer in another style, chosen by the question."""
    style = int(hashlib.sha256(fact.question.encode()).hexdigest(), 16) % len(GOLD_STYLES)
    return sentence(GOLD_STYLES[style].format(reference=fact.reference) + ".")


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def words(fact: Fact) -> set[str]:
    return set(f"{fact.question} {fact.answer}".lower().replace("?", " ").replace(".", " ").split())


def hold_out(facts: list[Fact], share: float, seed: int) -> set[str]:
    """Choose held-out questions: about `share` of every family, whose words also occur in other questions.

    A question is held out only while every word of it and of its answer stays in a question that is not.
    """
    left = Counter(word for fact in facts for word in words(fact))
    held: set[str] = set()
    for family in dict.fromkeys(fact.family for fact in facts):
        members = [fact for fact in facts if fact.family == family]
        quota = round(share * len(members))
        for fact in random.Random(f"{seed}/{family}").sample(members, len(members)):
            if quota and all(left[word] > 1 for word in words(fact)):
                left.subtract(words(fact))
                held.add(fact.question)
                quota -= 1
    return held
