"""An answer source as a Protocol: a model, and how it is asked."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from data_builders.outcomes import TemporaryFailure
from data_builders.storage.call_cache import content_key
from trainer_ext.evaluation.items import Answer, Item


class Asked(NamedTuple):
    """A question as it is asked: the item and, in the modalities that have one, its clip, read when it is needed."""

    item: Item
    read_clip: Callable[[], dict[str, Any] | None] = lambda: None

    def to_row(self) -> dict[str, Any]:
        """Return the columns that an encoder reads, the clip undecoded."""
        item, clip = self.item, self.read_clip()
        return {"id": item.id, "question": item.question, "system": item.system, "speech": clip, "audio": clip}


class AnswerSource(Protocol):
    """A model that answers. It is loaded, or connected to, when the first answer is asked for."""

    label: str  # its name in reports
    modalities: tuple[str, ...]  # names of MODALITIES
    refuses_for_good: bool  # whether a refused question would be refused again
    weights: object  # sources with the same one share their weights

    def describe(self) -> dict[str, Any]:
        """Return what its answers depend on, as JSON: model, revision, adapter, content."""
        ...

    def cut(self, asked: Sequence[Asked], modality: str) -> list[list[int]]:
        """Return batches, as positions; they depend on the questions alone, not on what is answered already."""
        ...

    def answer(self, asked: Sequence[Asked], modality: str, max_new_tokens: int) -> list[Answer | TemporaryFailure]:
        """Return the answers to one batch, in its order; a question that cannot be asked has a refused answer.

        Raises:
            ServerUnreachable: nothing can be answered now.
        """
        ...

    def free(self) -> None:
        """Free the weights; the next answer loads them again."""
        ...


def source_key(source: AnswerSource) -> str:
    """Return a folder name: the label, and a hash of what the answers depend on."""
    letters = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in source.label)
    return f"{letters.strip('.')[:60]}-{content_key('answers 1', source.describe())[:10]}"
