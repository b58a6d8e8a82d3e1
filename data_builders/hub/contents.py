"""The contents of a repository, recorded in its card, so that a push does not replace something else."""

import hashlib
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import RepoCard

METADATA_KEY = "crossmodal_kd"
# Files that huggingface.co or a person makes before anything is pushed.
NEW_REPOSITORY = (".gitattributes", ".gitignore", "LICENSE", "LICENSE.md")


@dataclass(frozen=True)
class Contents:
    """The kind of a repository's content, and what it is of.

    Attributes:
        kind: adapter, model, dataset, ...
        of: the base model, or the source of the questions; a push of another one is another content.
    """

    kind: str
    of: str

    def to_metadata(self) -> dict[str, Any]:
        """Return the card's metadata, for `ModelCardData(**...)`."""
        return {METADATA_KEY: {"kind": self.kind, "of": self.of}}

    def __str__(self) -> str:
        return f"{self.kind} of {self.of}"


def read_contents(card: str) -> Contents | None:
    """Return the contents that a card records; None for the card of something else."""
    found = read_metadata(card).get(METADATA_KEY)
    if not isinstance(found, dict) or not {"kind", "of"} <= found.keys():
        return None
    return Contents(str(found["kind"]), str(found["of"]))


def sign_card(card: str) -> str:
    """Return a card with the hash of its text among its metadata, by which an edit on the Hub is known."""
    signed = RepoCard(card)
    signed.data[METADATA_KEY] = {**signed.data.get(METADATA_KEY), "text": hash_text(signed.text)}
    return str(signed)


def is_edited(card: str) -> bool:
    """Tell whether the text of a signed card was changed since it was pushed."""
    found = read_metadata(card).get(METADATA_KEY)
    signature = found.get("text") if isinstance(found, dict) else None
    return signature is not None and signature != hash_text(RepoCard(card, ignore_metadata_errors=True).text)


def hash_text(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def is_bare(card: str) -> bool:
    """Tell whether a card is that of an empty repository: a license at most."""
    try:
        text = RepoCard(card, ignore_metadata_errors=True).text
    except (ValueError, yaml.YAMLError):
        return False
    return not text.strip() and not read_metadata(card).keys() - {"license", "language"}


def describe_card(card: str) -> str:
    """Return what a card of something else says of itself."""
    facts = read_metadata(card)
    named = [f"{key} {facts[key]}" for key in ("library_name", "base_model", "pipeline_tag", "sdk") if facts.get(key)]
    title = next((line.lstrip("# ") for line in card.splitlines() if line.startswith("# ")), "")
    return ", ".join([*([repr(title)] if title else []), *named]) or "a card of its own"


def read_metadata(card: str) -> dict[str, Any]:
    """Return a card's metadata; empty where there are none, or none that can be read."""
    try:
        return RepoCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        return {}
