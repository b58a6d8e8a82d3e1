"""Answers as models write them, right, wrong, wordy, empty and hostile, for every evaluator; equal in every run."""

import random

from trainer_ext.evaluation.evaluators.bbh import TASKS
from trainer_ext.evaluation.evaluators.phrases import CHOICE, read_phrases, read_rules

LETTERS = "ABCD"
OPENINGS = [
    "",
    "Well, ",
    "Let me think. ",
    "<1> ",
    "Step 1: read.\nStep 2: decide.\n\n",
    "\u6211\u8ba4\u4e3a",
    "Sure! ",
]
ENDINGS = [
    "",
    ".",
    " because of gravity.",
    ")",
    "**",
    "\n",
    " (the second one)",
    "<|user|>",
    "?",
    " is certain, a fact.",
]
ODD = [
    "", " ", "\n\n", "a", "B", "c.", "D)", "(b)", "(A) or (B)", "Apple pie", "A cat is a pet.", "None of them.", "I",
    "As an AI, I am unsure", "It's a tie: B, C", "\u7b54\u6848\u662fA", "a" * 5000, "[CHOICE]", "<|im_end|>", "b b b",
    "**C**", "\\boxed{D}", "is is is", "Yes", "no", "Yes. No.", "true", "The answer", "would be a.", "\u0130stanbul",
    "I would say (a), then (b), finally (c)", "Not sure", "ANSWER IS B", "Option: C", "a.b.c.d", '"b"', "The b side",
]  # fmt: skip


def shuffled(answers):
    """Return distinct answers in a fixed random order."""
    answers = list(dict.fromkeys(answers))
    random.Random(0).shuffle(answers)
    return answers


def choice_answers() -> list[str]:
    """Make answers to multiple choice questions: every phrase with every letter, alone and in a sentence."""
    draw = random.Random(1)
    answers = [*ODD]
    for phrase in read_phrases("multiple_choice"):
        for letter in LETTERS:
            core = phrase.replace(CHOICE, draw.choice([letter, letter.lower()]))
            answers += [core, draw.choice(OPENINGS) + core.capitalize() + draw.choice(ENDINGS)]
    for _ in range(300):
        answers.append(" ".join(draw.choice([*ODD, "the answer", "is", "option", *LETTERS]) for _ in range(4)))
    return shuffled(answers)


def bbh_answers(task: str) -> list[str]:
    """Make answers to one task: every rule's phrase alone and in a sentence, pairs of them, and odd ones."""
    draw = random.Random(2)
    phrases = [phrase.replace("(.+?)", "the third man") for name in TASKS[task] for _, phrase, _ in read_rules(name)]
    answers = [*ODD, *phrases]
    for phrase in phrases:
        answers.append(draw.choice(OPENINGS) + phrase.capitalize() + draw.choice(ENDINGS))
        answers.append(f"{draw.choice(phrases)}. So: {phrase}")
        answers.append(f"**{phrase.upper()}**, {draw.choice(['yes', 'no', 'lies', 'b'])}")
    while len(set(answers)) < 400:
        answers.append(" ".join(draw.choice([*ODD, *phrases]) for _ in range(2)))
    return shuffled(answers)


def refusal_answers() -> list[str]:
    """Make answers to harmful requests: refusals, help, and help with the words of a refusal."""
    draw = random.Random(3)
    helping = ["Sure, here is how:", "Step 1: buy it.", "It is easy. First,", "\u5f53\u7136\u53ef\u4ee5\u3002", "", " "]
    answers = [*ODD, *helping]
    for phrase in read_phrases("refusal"):
        answers += [phrase, phrase.upper(), f"{draw.choice(helping)} {phrase} {draw.choice(helping)}"]
        answers += [phrase[:-1], f"{'Long text. ' * 40}{phrase.capitalize()}.", phrase.replace("'", "\u2019")]
    return shuffled(answers)


INSTRUCTIONS = [
    ("punctuation:no_comma", {}),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 8}),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 8}),
    ("keywords:existence", {"keywords": ["river", "bank"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}),
    ("keywords:frequency", {"keyword": "river", "frequency": 2, "relation": "at least"}),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 5, "let_relation": "at least"}),
    ("change_case:english_lowercase", {}),
    ("change_case:english_capital", {}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Tell me of a river."}),
    ("startend:end_checker", {"end_phrase": "Is there anything else?"}),
    ("startend:quotation", {}),
    ("language:response_language", {"language": "de"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "the"}),
]
# Need nltk's sentence splitter, which a machine may lack.
SENTENCE_INSTRUCTIONS = [
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2}),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}),
]
FOLLOWING = [
    "The river runs to the sea.", "the river meets the bank and the river bends", "THE RIVER IS LONG AND WIDE",
    "* one\n* two", "* one\n* two\n* three", '{"river": "bank"}', "<<A title>>\nText, a comma.", "My answer is yes.",
    "Dear [name], come to [place].", "One.\n\nP.S. Two.", "First answer******Second answer",
    "Tell me of a river. It flows.", "So it is. Is there anything else?", '"quoted"', "Der Fluss ist lang und breit.",
    "The one\n***\nThe other", "the first\n\nthe second", "", "   ", "A *marked* word", "**The river**", "Sure:\nSo.",
    "The river, the bank, and everything else there is to see.\nThat is all.", "<2> The river", "The river<|user|>",
    "<think>hm</think> yes", "e" * 40, "Nothing to see here", "river " * 30,
]  # fmt: skip


def followed_answers(with_sentences: bool) -> list[tuple[list[str], list[dict], str, str]]:
    """Make instructions and answers: names, arguments, prompt, answer; rows have the columns of all instructions."""
    draw = random.Random(4)
    instructions = [*INSTRUCTIONS, *(SENTENCE_INSTRUCTIONS if with_sentences else [])]
    columns = sorted({key for _, arguments in instructions for key in arguments})
    made = []
    for text in FOLLOWING:
        for _ in range(12):
            chosen = draw.sample(instructions, draw.choice([1, 1, 2, 3]))
            names = [name for name, _ in chosen]
            arguments = [{column: given.get(column) for column in columns} for _, given in chosen]
            made.append((names, arguments, "Tell me of a river. Follow the rules.", text))
    return made
