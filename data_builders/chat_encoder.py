"""Token ids of prompts and responses, in which what people wrote is text and never a control token.

    chat template -> rendered once with slots -> control tokens | text around the slots
    question, system -> put into the slots -> tokenized without added tokens -> joined with the control tokens

The official way, to render the template with the text inside and tokenize everything, reads `<|im_end|>` in a question
as the end of the turn. Here the template never sees the text, and the text meets a tokenizer that knows no added
tokens. Text without control tokens gets the same ids as in the official way: a slot is tokenized together with the
template's own text beside it ("user\\n" and a question that begins with white space share a token).
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from data_builders.chat import DEFAULT_SYSTEM, make_messages
from data_builders.time_limit import time_limit

# Stand for what people write while a chat template is rendered; letters and digits pass every template unchanged.
SYSTEM_SLOT, QUESTION_SLOT = "Slot9f31System", "Slot9f31Question"
RENDER_SECONDS = 3.0  # the longest published templates take a thousandth of it


class TextTokenizer:
    """The learned part of a tokenizer: normalizer, pre-tokenizer and model, without added tokens.

    `split_special_tokens=True` would still read the added tokens that are not marked special, such as Qwen's
    `<tool_call>` and `<|fim_prefix|>`.

    Raises:
        ValueError: the tokenizer is not one of the library `tokenizers`, or its model itself gives a special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(
                f"{tokenizer.name_or_path} has no fast tokenizer (tokenizer.json), so control tokens could not be told "
                "from text. Convert it by AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        self._tokenizer = Tokenizer(backend.model)
        self._tokenizer.normalizer = backend.normalizer
        self._tokenizer.pre_tokenizer = backend.pre_tokenizer
        special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        for text in special.values():
            if found := special.keys() & set(self.encode(text)):
                raise ValueError(
                    f"{tokenizer.name_or_path} gives {special[min(found)]!r} for written text: choose a model whose "
                    "control tokens are apart from its vocabulary"
                )

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids


class PromptTemplate:
    """A conversation rendered by a tokenizer's chat template, with slots for what people write.

    Args:
        messages: the conversation, with SYSTEM_SLOT and QUESTION_SLOT in it.

    Raises:
        ValueError: the template cannot render the conversation, or leaves out a slot.
    """

    def __init__(self, tokenizer: Any, text: TextTokenizer, messages: Sequence[dict[str, Any]]) -> None:
        self._text = text
        rendered, self._trims = render(tokenizer, messages)
        # Control tokens as ids; between them, text as alternating literals and slots.
        self._parts: list[int | list[str]] = []
        end = 0
        for token_id, (start, stop) in find_added_tokens(tokenizer, rendered):
            self._add_text(rendered[end:start])
            self._parts.append(token_id)
            end = stop
        self._add_text(rendered[end:])

    def _add_text(self, text: str) -> None:
        if text:
            self._parts.append(re.split(f"({SYSTEM_SLOT}|{QUESTION_SLOT})", text))

    def encode(self, question: str = "", system: str = "") -> list[int]:
        """Return the token ids of the conversation, up to the first token of the response."""
        written = {SYSTEM_SLOT: system or DEFAULT_SYSTEM, QUESTION_SLOT: question}
        if self._trims:
            written = {slot: text.strip() for slot, text in written.items()}
        ids: list[int] = []
        for part in self._parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._text.encode("".join(written.get(piece, piece) for piece in part))
        return ids


class ChatEncoder:
    """Prompts and responses of a text LLM, by its own tokenizer and chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._text = TextTokenizer(tokenizer)
        self._prompt = PromptTemplate(tokenizer, self._text, make_messages(QUESTION_SLOT, SYSTEM_SLOT))
        self._end_of_turn: int = tokenizer.eos_token_id
        self._control_tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]

    def encode_prompt(self, question: str, system: str) -> list[int]:
        """Return the prompt's token ids, up to the first token of the response."""
        return self._prompt.encode(question, system)

    def encode_response(self, response: str) -> list[int]:
        """Return the token ids that the loss scores: the answer and the end of the turn."""
        return [*self._text.encode(response), self._end_of_turn]

    def names_control_token(self, *texts: str) -> bool:
        """Tell whether a tokenizer that reads control tokens in text would find one in these."""
        return any(token in text for token in self._control_tokens for text in texts)


def render(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> tuple[str, bool]:
    """Render a conversation of slots; tells too whether the template trims white space around them.

    Raises:
        ValueError: the tokenizer has no chat template, or its template refuses or leaves out a part.
    """
    padded = json.loads(re.sub(f"({SYSTEM_SLOT}|{QUESTION_SLOT})", r" \1 ", json.dumps(messages)))
    try:
        if "**" in str(tokenizer.chat_template):  # a power of large numbers cannot be interrupted
            raise ValueError("it computes powers")
        with time_limit(RENDER_SECONDS, "the template does not end"):
            rendered = tokenizer.apply_chat_template(padded, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template raises whatever it wants to
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} does not render a system prompt and a question: {error}"
        ) from error
    for slot in (SYSTEM_SLOT, QUESTION_SLOT):
        if slot in json.dumps(messages) and slot not in rendered:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path} leaves out the "
                f"{'question' if slot == QUESTION_SLOT else 'system prompt'}"
            )
    trims = f" {QUESTION_SLOT} " not in rendered and QUESTION_SLOT in rendered
    return re.sub(f" ?({SYSTEM_SLOT}|{QUESTION_SLOT}) ?", r"\1", rendered), trims


def find_added_tokens(tokenizer: Any, rendered: str) -> list[tuple[int, tuple[int, int]]]:
    """Return the added tokens of a rendered template: id, and first and last character + 1."""
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    added = set(tokenizer.added_tokens_decoder)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [(token_id, span) for token_id, span in pairs if token_id in added]
