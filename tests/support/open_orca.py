"""Rows in the format of Open-Orca/OpenOrca (id, system_prompt, question, response), as many as wanted, made of nothing.

One in four can be asked aloud; the others are what the real one is full of: passages, options, code, tables, formulas,
other languages, near duplicates, nothing at all.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

LABELS = Path(__file__).parents[1] / "data_builders" / "questions" / "speakability_labels.tsv"
SYSTEM_PROMPTS = (
    "",
    "You are an AI assistant. You will be given a task. You must generate a detailed and long answer.",
    "You are a helpful assistant, who always provide explanation. Think like you are answering to a five year old.",
    "You are an AI assistant that helps people find information.",
)
THINGS = (
    "a violin", "rye bread", "a steam engine", "the tide", "a glacier", "honey", "a compass", "the printing press",
    "a solar panel", "a beehive", "cotton", "a canal lock", "the abacus", "a kite", "coral", "saffron", "a windmill",
    "paper money", "a telescope", "the zip fastener", "a lighthouse", "olive oil", "the pendulum clock", "porcelain",
)  # fmt: skip
PLACES = (
    "Norway", "Peru", "Kenya", "Portugal", "Vietnam", "Iceland", "Morocco", "Chile", "Estonia", "Nepal", "Cuba",
    "Ireland", "Ghana", "Mongolia", "Uruguay", "Latvia", "Samoa", "Jordan", "Malta", "Bhutan",
)  # fmt: skip
NAMES = (
    "Anna",
    "Tom",
    "Maria",
    "Jack",
    "Lena",
    "Omar",
    "Sofia",
    "Ravi",
    "Nina",
    "Paul",
    "Ines",
    "Carl",
)
ASKED = (
    "How does {thing} work, and who came up with it?",
    "What would people in {place} have used before there was {thing}?",
    "Why was {thing} so important for the economy of {place}?",
    "Write a short poem about {name} and {thing}.",
    "{name} has {a} marbles and gives {b} of them to {other}. How many are left?",
    "A ticket to {place} costs ${a}. What do {b} tickets cost?",
    "What should {name} pack for a week in {place} in winter?",
    "Tell me three facts about {place} that a child would like.",
    "If {name} walks {b} kilometers every day, how far is that in {a} days?",
    "Explain {thing} to somebody who has never left {place}.",
    "Which is older, {thing} or {thing2}, and how do we know?",
    "Suggest a name for a small shop in {place} that sells {thing}.",
)
SENTENCES = (
    "The council of {place} met on Monday to talk about {thing}.", "{name} had never seen {thing} before that summer.",
    "Exports grew by {a} percent in the following year.", "Nobody could say where {thing} had come from.",
    "The old road to {place} was closed for {b} weeks.", "{name} and {other} opened a workshop for {thing}.",
)  # fmt: skip
FOREIGN = (
    "¿Cuántas personas de {place} conocen la historia de esta invención y por qué?",
    "Warum ist {place} im Winter so beliebt, und was kostet eine Reise dorthin?",
    "Pourquoi les habitants de {place} aiment-ils tant voyager en hiver?",
    "Quantas pessoas vivem em {place} e que línguas elas falam?",
    "Сколько человек живёт в этой стране и чем они занимаются?", "{place}的首都是哪里，有多少人口？",
)  # fmt: skip
CODE = (
    "def total(items):\n    return sum(i.price for i in items)\nWhat does this return for {a} items?",
    "Fix this: for (int i = 0; i < {a}; i++) {{ print(i) }}",
    "SELECT name FROM trips WHERE place = '{place}' AND days > {b};\nExplain the query.",
    "What is printed by console.log([{a}, {b}].map(x => x * 2))?",
)
OTHER_TASKS = (
    "Article: {text}\nQuestion: What was it about?\nAnswer:",
    "{text}\n\nQ: Who is mentioned?\nA:",
    "Premise: {text} Hypothesis: {name} lives in {place}. Is it entailed?",
    "Which one is made in {place}?\nOptions:\n(A) {thing}\n(B) {thing2}\n(C) neither",
    "Choose: where is {name} going? A) {place} B) home C) nowhere",
    "| name | place | days |\n| {name} | {place} | {a} |\nHow long did {name} stay?",
    "{name} visitedPlace {place}; {name} stayedDays {a}; {name} bought {thing}; write a sentence",
    "Solve for x: {a}x^2 - {b}x = 0",
    "Summarize https://example.org/{place}/{a} in one sentence.",
    "Fill in the blank: {name} went to ____ to buy {thing}.",
    "You will be given a definition of a task first, then some input of the task. " + "{text} " * 3,
)


def make_rows(count: int, seed: int = 0) -> Iterator[tuple[dict[str, str], str]]:
    """Rows, each with "yes" if its question can be asked aloud, "no" if not, "again" if it was there before."""
    rng = random.Random(seed)
    labelled = [line.rstrip("\n").split("\t") for line in LABELS.read_text().splitlines()]
    told: list[str] = []
    seen: set[str] = set()
    for number in range(count):
        kind = rng.random()
        if number < len(labelled):
            label, _, question = labelled[number]
            question = question.replace("\\n", "\n")
        elif kind < 0.25:
            question, label = fill(rng, rng.choice(ASKED)), "yes"
        elif kind < 0.30 and told:
            question, label = rng.choice(told).upper().replace("?", " ?"), "again"
        elif kind < 0.32:
            question, label = "", "no"
        elif kind < 0.42:
            question, label = fill(rng, rng.choice(FOREIGN)), "no"
        elif kind < 0.55:
            question, label = fill(rng, rng.choice(CODE)), "no"
        else:
            text = " ".join(fill(rng, rng.choice(SENTENCES)) for _ in range(rng.randint(3, 12)))
            question, label = fill(rng, rng.choice(OTHER_TASKS), text), "no"
        if label == "yes" and question in seen:
            label = "again"
        if label == "yes":
            told.append(question)
            seen.add(question)
        source = rng.choice(("flan", "niv", "t0", "cot"))
        yield (
            {
                "id": f"{source}.{number}",
                "system_prompt": rng.choice(SYSTEM_PROMPTS),
                "question": question,
                "response": f"That depends on {rng.choice(THINGS)}.",
            },
            label,
        )


def fill(rng: random.Random, template: str, text: str = "") -> str:
    thing, thing2 = rng.sample(THINGS, 2)
    name, other = rng.sample(NAMES, 2)
    return template.format(
        thing=thing, thing2=thing2, place=rng.choice(PLACES), name=name, other=other,
        a=rng.randint(12, 99), b=rng.randint(2, 11), text=text,
    )  # fmt: skip


def write_rows(file: Path, count: int, seed: int = 0) -> list[str]:
    """A JSONL file of rows; returns their labels."""
    labels = []
    with file.open("w", encoding="utf-8") as stream:
        for row, label in make_rows(count, seed):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            labels.append(label)
    return labels
