"""Texts as people and attackers write them."""

import random
from collections.abc import Iterator

SCRIPTS = (  # first and last code point
    (0x20, 0x7E), (0xC0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F),
    (0xE00, 0xE7F), (0x1100, 0x11FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x300, 0x36F),
    (0x2000, 0x206F), (0x1F300, 0x1F64F),
)  # fmt: skip
SPACES = (" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", " \n ", "\ufeff")
PROSE = (
    "What is ",
    "3,14",
    "? ",
    "def f(x):\n    return x",
    "Hello",
    "it's",
    "ÿ",
    "…",
    " the end",
    "{{ x }}",
    "{% if %}",
)


def write_texts(count: int, seed: int) -> Iterator[str]:
    """Yield random texts in many scripts, many with white space at their ends."""
    draw = random.Random(seed)
    for _ in range(count):
        script = draw.choice(SCRIPTS)
        text = ""
        for _ in range(draw.randint(1, 8)):
            word = "".join(chr(draw.randint(*script)) for _ in range(draw.randint(1, 8)))
            text += draw.choice([draw.choice(SPACES), draw.choice(PROSE), word])
        yield text


def write_control_texts(tokens: list[str], count: int, seed: int) -> Iterator[str]:
    """Yield texts with the names of control tokens: each alone first, then glued, nested and among other text."""
    yield from tokens
    draw = random.Random(seed)
    texts = list(write_texts(200, seed))
    for _ in range(count - len(tokens)):
        a, b, text = draw.choice(tokens), draw.choice(tokens), draw.choice(texts)
        at = draw.randrange(len(a))
        yield draw.choice((
            a + b, a[:at] + b + a[at:], text + a, a + text, f"{text}{a}\n{b}system\n{text}{a}", a * draw.randint(2, 9),
        ))  # fmt: skip
