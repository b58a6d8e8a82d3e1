"""Prompts from WordNet, for a nano-Omni without a download from the Hub: questions about words, and example sentences.

    question about a noun + the definition of its commonest sense, where that answers it -> `gold_response`
    example sentence of a gloss                                                          -> a prompt of its own

    apt-get install wordnet-base
    python recipes/nano_omni/wordnet_prompts.py --output_file outputs/wordnet.jsonl

A small world, because a small model hears words that it has heard often: common nouns, each in several questions, and
the sentences whose rarest words are the least rare. The words of a held-out prompt are in others. WordNet 3.0 is
Princeton University's; its license asks to be kept with copies of the data.
"""

import argparse
import collections
import json
import random
import re
from pathlib import Path

from data_builders.storage.atomic import write_atomic

TEMPLATES = (
    "What is a {}?", "What does the word {} mean?", "Give me an example of a {}.", "Tell me about {}.",
    "Use the word {} in a sentence.", "Why do people need {}?", "Where would you find a {}?",
    "How would you describe {} to a child?", "What can you do with a {}?", "Is a {} good or bad?",
)  # fmt: skip
DEFINED = (TEMPLATES[0], TEMPLATES[1], TEMPLATES[3], TEMPLATES[7])  # those that a definition answers
SYSTEM = "You answer with one short sentence of at most ten words."  # a small model rarely ends otherwise
PARTS = ("noun", "verb", "adj")
QUESTIONS_PER_WORD = 6
NOUN = "1"  # part of speech in cntlist.rev
EXAMPLE = re.compile(r'"([A-Za-z\' ,]{15,70})"')
OFFSET = re.compile(r" (\d{8})")  # of a synset in data.noun


def split_words(text: str) -> list[str]:
    """Return a sentence's words in lower case."""
    return re.findall("[a-z']+", text.lower())


def read_examples(folder: Path) -> list[str]:
    """Return the example sentences of all glosses, those of common words first."""
    found = set()
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text().splitlines():
            gloss = line.partition("|")[2]
            found |= {example.replace(",", "").strip() for example in EXAMPLE.findall(gloss)}
    counts = collections.Counter(word for text in found for word in set(split_words(text)))
    return sorted(found, key=lambda text: (-min(counts[word] for word in split_words(text)), text))


def read_nouns(folder: Path, sentences: list[str]) -> list[str]:
    """Return nouns by how often texts use them, the commonest first; only those of the sentences."""
    known = {word for text in sentences for word in split_words(text)}
    counts: collections.Counter[str] = collections.Counter()
    for line in (folder / "cntlist.rev").read_text().splitlines():
        sense, _, count = line.split()
        lemma, _, kind = sense.partition("%")
        if kind.startswith(NOUN) and len(lemma) > 2 and lemma in known:
            counts[lemma] += int(count)
    return sorted(counts, key=lambda lemma: (-counts[lemma], lemma))


def read_definitions(folder: Path) -> dict[str, str]:
    """Return the definition of every noun's commonest sense."""
    glosses = {}
    for line in (folder / "data.noun").read_text().splitlines():
        fields, _, gloss = line.partition(" | ")
        glosses[fields[:8]] = gloss.partition(";")[0].strip()
    definitions = {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" ") and (synsets := OFFSET.findall(line)):  # the license begins with spaces
            definitions[line.partition(" ")[0]] = glosses[synsets[0]]
    return definitions


def make_prompts(folder: Path, words: int, sentences: int, held_out: int, seed: int) -> list[dict[str, str | None]]:
    """Return prompts with their split: questions about each word, and example sentences."""
    rng = random.Random(seed)
    examples = dict.fromkeys(read_examples(folder)[:sentences])
    definitions = read_definitions(folder)
    questions = {
        template.format(noun): f"{definitions[noun]}." if template in DEFINED else None
        for noun in read_nouns(folder, list(examples))[:words]
        for template in rng.sample(TEMPLATES, QUESTIONS_PER_WORD)
    }
    rows = []
    for source, texts in (("words", questions), ("sentences", examples)):
        test = set(rng.sample(list(texts), held_out))
        rows += [
            {
                "question": text,
                "gold_response": gold,
                "split": "test" if text in test else "train",
                "source": f"wordnet/{source}",
            }
            for text, gold in texts.items()
        ]
    rng.shuffle(rows)
    return [{"system": SYSTEM, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--output_file", type=Path, default=Path("outputs/wordnet.jsonl"))
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--held_out", type=int, default=75, help="held-out questions, and as many sentences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gold_only", action="store_true", help="train on the prompts with a gold answer alone")
    arguments = parser.parse_args()
    if not (arguments.wordnet / "cntlist.rev").is_file():
        parser.error(f"{arguments.wordnet} has no cntlist.rev: apt-get install wordnet-base, or name its folder")
    rows = make_prompts(
        arguments.wordnet, arguments.words, arguments.sentences, arguments.held_out, arguments.seed
    )  # fmt: skip
    if arguments.gold_only:
        rows = [row for row in rows if row["gold_response"] or row["split"] == "test"]
    arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(arguments.output_file, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    counts = collections.Counter(row["split"] for row in rows)
    print(f"{arguments.output_file}: {counts['train']} prompts to train on, {counts['test']} held out")


if __name__ == "__main__":
    main()
