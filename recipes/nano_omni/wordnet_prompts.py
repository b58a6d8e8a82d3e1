"""Prompts from WordNet, for a nano-Omni without a download from the Hub: questions about words, and example sentences.

    apt-get install wordnet-base
    python recipes/nano_omni/wordnet_prompts.py --output_file outputs/wordnet.jsonl

Prompts with a held-out word are the split `test`, or are left out: a model is then asked about words that no question
of its training named. WordNet 3.0 is Princeton University's; its license asks to be kept with copies of the data.
"""

import argparse
import collections
import json
import random
import re
from pathlib import Path

TEMPLATES = (
    "What is a {}?", "What does the word {} mean?", "Give me an example of a {}.", "Tell me about {}.",
    "Use the word {} in a sentence.", "Why do people need {}?", "Where would you find a {}?",
    "How would you describe {} to a child?", "What can you do with a {}?", "Is a {} good or bad?",
)  # fmt: skip
SYSTEM = "You answer with one short sentence of at most ten words."  # a small model rarely ends otherwise
PARTS = ("noun", "verb", "adj")
NOUN = "1"  # part of speech in cntlist.rev
EXAMPLE = re.compile(r'"([A-Za-z\' ,]{15,70})"')


def read_words(folder: Path) -> list[str]:
    """Return nouns of three letters or more by how often texts use them, the commonest first."""
    counts: collections.Counter[str] = collections.Counter()
    for line in (folder / "cntlist.rev").read_text().splitlines():
        sense, _, count = line.split()
        lemma, _, kind = sense.partition("%")
        if kind.startswith(NOUN) and lemma.isalpha() and len(lemma) > 2:
            counts[lemma] += int(count)
    return sorted(counts, key=lambda lemma: (-counts[lemma], lemma))


def read_examples(folder: Path) -> list[str]:
    """Return the example sentences of all glosses, sorted."""
    found = set()
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text().splitlines():
            gloss = line.partition("|")[2]
            found |= {example.replace(",", "").strip() for example in EXAMPLE.findall(gloss)}
    return sorted(found)


def make_prompts(folder: Path, words: int, sentences: int, held_out: int, seed: int) -> list[dict[str, str]]:
    """Return prompts with their split: two questions about each word, and example sentences."""
    rng = random.Random(seed)
    lemmas = read_words(folder)[:words]
    held = set(rng.sample(lemmas[words // 4 :], held_out))  # not the commonest, which are in most sentences
    rows = [
        {"question": template.format(lemma), "split": "test" if lemma in held else "train", "source": "wordnet/words"}
        for lemma in lemmas
        for template in rng.sample(TEMPLATES, 2)
    ]
    examples = [text for text in read_examples(folder) if not held & set(re.findall("[a-z]+", text.lower()))]
    rng.shuffle(examples)
    rows += [
        {"question": text, "split": "test" if i < held_out else "train", "source": "wordnet/sentences"}
        for i, text in enumerate(examples[:sentences])
    ]
    rng.shuffle(rows)
    return [{"system": SYSTEM, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--output_file", type=Path, default=Path("outputs/wordnet.jsonl"))
    parser.add_argument("--words", type=int, default=1500)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--held_out", type=int, default=75, help="held-out words, and as many sentences")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.wordnet / "cntlist.rev").is_file():
        parser.error(f"{arguments.wordnet} has no cntlist.rev: apt-get install wordnet-base, or name its folder")
    rows = make_prompts(
        arguments.wordnet, arguments.words, arguments.sentences, arguments.held_out, arguments.seed
    )  # fmt: skip
    arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
    arguments.output_file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    counts = collections.Counter(row["split"] for row in rows)
    print(f"{arguments.output_file}: {counts['train']} prompts to train on, {counts['test']} held out")


if __name__ == "__main__":
    main()
