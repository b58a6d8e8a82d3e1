"""Folders of this project that are pushed to the Hub, and what is changed in their files on the way."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.utils import CONFIG_NAME

from data_builders.hub.contents import Contents
from data_builders.hub.folders import DATASET, SOFT_TARGETS, FolderKind
from data_builders.hub.repository import CARD
from data_builders.hub.requests import PushRefused
from data_builders.redaction import hide_credentials
from trainer_ext.checkpoints.complete import CHECKSUMS
from trainer_ext.loading.adapter_files import ADAPTER_CONFIG

ARGUMENTS = "resolved.yaml"
CHECKPOINT_FOLDER = "last-checkpoint"
PROCESSOR = (
    "tokenizer.json", "tekken.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json",
)  # fmt: skip
RESULTS = ("report.json", "report.md", "scores.png", "gaps.png", "lengths.png", "loss.png", ARGUMENTS)
PAGES = ("index.html", "_answers/index.html")  # of an evaluation, and of a run
WEIGHTS = (
    "config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)  # fmt: skip


def rewrite_run(folder: Path, contents: Contents) -> dict[str, bytes]:
    """Return the files of a run that name places of this machine, without them."""
    changed = {}
    config = folder / ADAPTER_CONFIG
    if config.is_file():
        changed[ADAPTER_CONFIG] = rename_base(config.read_bytes(), contents.of)
    if (folder / ARGUMENTS).is_file():
        arguments = yaml.safe_load((folder / ARGUMENTS).read_text(encoding="utf-8"))
        mine = {
            key: value
            for key, value in arguments.items()
            if not key.startswith(("push_to_hub", "hub_")) and not key.endswith("_base_url")
        }
        changed[ARGUMENTS] = yaml.safe_dump(hide_places(mine)).encode()
    return changed


def rewrite_model(folder: Path, contents: Contents) -> dict[str, bytes]:
    """Return the files of a model that name places of this machine, without them."""
    changed = rewrite_run(folder, contents)
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    plain = without_origin(config)
    if plain != config:
        changed[CONFIG_NAME] = (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode()
    return changed


def without_origin(config: Any) -> Any:
    """Return a model's config, and those of its parts, without the folders that they were loaded from."""
    if not isinstance(config, dict):
        return config
    return {key: without_origin(value) for key, value in config.items() if key != "_name_or_path"}


def rewrite_report(folder: Path, contents: Contents) -> dict[str, bytes]:
    """Return report.json, whose models and data may be named by places of this machine, without them."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    plain = (json.dumps(hide_places(report), indent=2, ensure_ascii=False) + "\n").encode()
    return {**rewrite_run(folder, contents), "report.json": plain}


def rename_base(adapter_config: bytes, base_model: str) -> bytes:
    """Return an adapter's config with the base model that its card names."""
    settings = json.loads(adapter_config)
    if settings.get("base_model_name_or_path") == base_model:
        return adapter_config
    return (json.dumps({**settings, "base_model_name_or_path": base_model}, indent=2, sort_keys=True) + "\n").encode()


def hide_places(value: Any) -> Any:
    """Return arguments with the last part of paths of this machine, and URLs without user and password."""
    if isinstance(value, dict):
        return {hide_places(key): hide_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hide_places(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "../", "file:")):
        return Path(value).name
    return hide_credentials(value) if isinstance(value, str) else value


def collect_checkpoint(folder: Path, base_model: str) -> dict[str, Path | bytes]:
    """Return what a run resumes from, for `hub_strategy: checkpoint`, by its path on the Hub; no pickled arguments.

    Paths of this machine are taken out, and the checksums are those of the files as they are pushed.
    """
    checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    files: dict[str, Path | bytes] = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in (CARD, CHECKSUMS, TRAINING_ARGS_NAME)
    }
    changed = {}
    if ADAPTER_CONFIG in files:
        changed[ADAPTER_CONFIG] = rename_base((folder / ADAPTER_CONFIG).read_bytes(), base_model)
    state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    if best := state.get("best_model_checkpoint"):
        changed[TRAINER_STATE_NAME] = json.dumps({**state, "best_model_checkpoint": Path(best).name}).encode()
    files |= changed
    kept = {path: digest for path, digest in checksums.items() if path in files}
    kept |= {path: hashlib.sha256(content).hexdigest() for path, content in changed.items()}
    files[CHECKSUMS] = json.dumps(kept, indent=1).encode()
    return {f"{CHECKPOINT_FOLDER}/{path}": source for path, source in files.items()}


ADAPTER = FolderKind(
    name="adapter",
    marker=ADAPTER_CONFIG,
    patterns=[CARD, ADAPTER_CONFIG, "adapter_model.safetensors", *PROCESSOR, *RESULTS],
    required=["adapter_model.safetensors"],
    contents=["omni_adapter", "vllm_adapter"],
    rewrite=rewrite_run,
)
# `spk_dict.pt` has the base's voices, without which it does not speak; it is a copy of the published file.
FULL_MODEL = FolderKind(
    name="full_model",
    marker="spk_dict.pt",
    patterns=[CARD, "README_base.md", "spk_dict.pt", "LICENSE", *WEIGHTS, *PROCESSOR],
    required=[CONFIG_NAME, "model*.safetensors"],
    contents=["omni"],
    rewrite=rewrite_model,
)
MODEL = FolderKind(
    name="model",
    marker="model*.safetensors",
    patterns=[CARD, *WEIGHTS, *PROCESSOR, *RESULTS],
    required=[CONFIG_NAME, "model*.safetensors"],
    contents=["thinker", "student"],
    rewrite=rewrite_model,
)
# A page to read and hear answers, as a static Space.
REPORT = FolderKind(
    name="report",
    marker="index.html",
    patterns=[CARD, *PAGES, "report.json", "report.md", "*.png"],
    required=["report.json"],
    repo_type="space",
    space_sdk="static",
    rewrite=rewrite_report,
)
SPACE = FolderKind(
    name="space",
    marker="app.py",
    patterns=[CARD, "app.py", "requirements.txt", "space.yaml", "report/*", "trainer_ext/**", "data_builders/**"],
    required=["app.py", "requirements.txt"],
    repo_type="space",
    space_sdk="gradio",
)
KINDS = {kind.name: kind for kind in (ADAPTER, FULL_MODEL, MODEL, DATASET, SOFT_TARGETS, SPACE, REPORT)}


def find_kind(folder: Path, named: str | None = None) -> FolderKind:
    """Return the kind of a folder by its files, or the named one.

    Raises:
        PushRefused: it is of no kind that is pushed.
    """
    if not folder.is_dir():
        raise PushRefused(f"there is no folder {folder}")
    if named is not None:
        if named != REPORT.name and not KINDS[named].fits(folder):
            raise PushRefused(f"{folder} is no {named}: it has no {KINDS[named].marker}")
        return KINDS[named]
    kind = next((kind for kind in KINDS.values() if kind.fits(folder)), None)
    if kind is None:
        raise PushRefused(f"{folder} is none of {', '.join(KINDS)}: push a folder that a recipe has made")
    return kind
