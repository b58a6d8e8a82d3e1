"""Answer `--help`, a mistyped key and a missing file at once: the imports of a recipe take seconds.

    a recipe's first run    RecipeParser -> its arguments as JSON in the cache folder
    every later one         cached JSON -> argparse -> help, or an error in one line; otherwise the recipe goes on

The arguments are those of transformers and TRL too, which only their imports tell. The cache is for their versions and
for this project's files; without it, the recipe itself answers, seconds later. $XDG_CACHE_HOME/crossmodal-kd.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from data_builders.storage.atomic import write_atomic
from trainer_ext.recipe_words import RecipeWords

PACKAGES = [Path(__file__).parents[1] / name for name in ("data_builders", "trainer_ext")]
LIBRARIES = ("accelerate", "peft", "torch", "transformers", "trl")  # that decide on arguments and their defaults
TYPES: dict[str, type] = {"int": int, "float": float, "str": str}  # others are checked by the recipe itself
TABLES = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt")
KEPT_SECONDS = 30 * 24 * 3600  # files of versions and checkouts that are in use are written again
SETTINGS = ("prog", "always", "positional", "named_by", "alternatives", "opened", "own")

_cache: Path | None = None  # of the recipe that is running


def answer_early(name: str, file: str) -> None:
    """Exit with an answer, if there is one that needs no library; only where the recipe is run as a script.

    The garbage collector is off until `run_command`: a quarter of the imports' time would go into its searches of
    modules that all stay.

    Args:
        name, file: `__name__` and `__file__` of the recipe.
    """
    global _cache
    if name != "__main__":
        return
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no cache, or a damaged one
        _cache = locate_cache(Path(file))
        parser = EarlyParser(json.loads(_cache.read_text(encoding="utf-8")))
        check_places(parser, vars(parser.parse_args(parser.read_words(sys.argv[1:]))))
    gc.disable()


class EarlyParser(RecipeWords):
    """A recipe's parser, made from its description."""

    def __init__(self, cached: dict[str, Any]) -> None:
        super().__init__(prog=cached["prog"], allow_abbrev=False, add_help=False)
        self.formatter_class = argparse.ArgumentDefaultsHelpFormatter
        self.default_config = None if cached["default_config"] is None else Path(cached["default_config"])
        for setting in SETTINGS:
            setattr(self, setting, cached[setting])
        for described in cached["actions"]:
            options = described.pop("option_strings")
            if kind := TYPES.get(described.pop("type")):
                described["type"] = kind
            self.add_argument(*options, **described)


def remember(parser: RecipeWords) -> None:
    """Write the description of a running recipe's arguments, unless it is there."""
    global _cache
    file, _cache = _cache, None
    if file is None or file.is_file():
        return
    with contextlib.suppress(OSError):  # a home that cannot be written to
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(describe_parser(parser)).encode())
        for other in file.parent.glob("*.json"):
            if time.time() - other.stat().st_mtime > KEPT_SECONDS:
                other.unlink()


def locate_cache(recipe: Path) -> Path:
    """Return the file for a recipe, the installed libraries and this project's files as they are."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossmodal-kd"
    facts = [str(recipe.resolve()), sys.version, *(importlib.metadata.version(library) for library in LIBRARIES)]
    for folder in (*PACKAGES, recipe.resolve().parent):  # an installed package has no recipes
        for file in sorted(folder.rglob("*.py")):
            stat = file.stat()
            facts.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
    return base / f"{recipe.stem}-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:16]}.json"


def describe_parser(parser: RecipeWords) -> dict[str, Any]:
    """Return what `EarlyParser` makes the same parser from."""
    config = parser.default_config
    return {
        **{setting: getattr(parser, setting) for setting in SETTINGS},
        "default_config": None if config is None else str(config),
        "actions": [describe_action(action) for action in parser._actions],
    }


def describe_action(action: argparse.Action) -> dict[str, Any]:
    """Return the arguments of `add_argument` that make an action with the same help and the same words."""
    described: dict[str, Any] = {
        "option_strings": action.option_strings, "dest": action.dest, "help": action.help, "type": "",
    }  # fmt: skip
    if isinstance(action, argparse._HelpAction):
        return described | {"action": "help"}
    described["default"] = action.default if is_plain(action.default) else str(action.default)
    if isinstance(action, argparse._StoreFalseAction):
        return described | {"action": "store_false"}
    described |= {"nargs": action.nargs, "metavar": action.metavar, "const": action.const}
    kind = getattr(action.type, "__name__", "")
    if action.choices is not None:
        described["metavar"] = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    elif kind in TYPES:
        described["type"] = kind
    return described


def is_plain(value: Any) -> bool:
    """Tell whether a value is the same after JSON."""
    return (
        value is None or type(value) in (bool, int, float, str) or (type(value) is list and all(map(is_plain, value)))
    )


def check_places(parser: RecipeWords, values: dict[str, Any]) -> None:
    """Exit where an argument names a file or folder of this machine that the recipe cannot open."""
    for key in parser.opened:
        value = values.get(key)
        if isinstance(value, str) and is_path(value) and not Path(value).exists():
            parser.error(f"{key}: there is no {'file' if value.endswith(TABLES) else 'folder'} {value}")


def is_path(value: str) -> bool:
    """Tell whether a value can only be a path: an id on the Hub has one slash at most, and ends like no table."""
    return value.count("/") > 1 or value.startswith(("/", "./", "../")) or value.endswith(TABLES)
