"""The words of a recipe's command line and YAML file, checked against the actions of an argparse parser.

Nothing here needs the libraries that a recipe runs on; early_answers.py uses it before they are imported.
"""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

HELP_ALL = "--help_all"
TRACEBACK = "--traceback"
OPENED = (
    "questions", "dataset_name", "sound_dataset_name", "model_name_or_path", "teacher_model_name_or_path", "adapter",
)  # fmt: skip


class ConfigLoader(yaml.SafeLoader):
    """Plain YAML: without aliases, of which 400 bytes become gigabytes, and with every key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not read{self.peek_event().start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"the key {repeated[0]!r} is there twice")
        return super().construct_mapping(node, deep)


class RecipeWords(argparse.ArgumentParser):
    """A parser that reads `--config` as if its values were typed before the command line, and errs in one line.

    Attributes:
        default_config: the file to read when the command line names neither `--config` nor one of `named_by`.
        always: words appended to every command line.
        positional: arguments that may be given without their names, in this order, before all others.
        named_by: arguments that say what a run is about; with one of them, the default config is not read.
        alternatives: pairs of arguments of which one is set: typing one unsets the file's other.
        opened: arguments whose file or folder must exist, where the value can only be a path.
        own: the arguments that this project declares.
        config: the file that was read; None for none.
        typed: the arguments of the command line.
    """

    default_config: Path | None = None
    always: Sequence[str] = ()
    positional: Sequence[str] = ()
    named_by: Sequence[str] = ()
    alternatives: Sequence[tuple[str, str]] = ()
    opened: Sequence[str] = OPENED
    own: Sequence[str] = ()
    config: Path | None = None
    typed: frozenset[str] = frozenset()
    shows_all = False

    def read_words(self, words: Sequence[str]) -> list[str]:
        """Return the words of the file and the command line; exits with code 2 and the key's name on a bad one.

        `--help_all` prints all arguments and exits.
        """
        named = self._name_positional(list(words))
        typed = [word for item in [*named, *self.always] for word in split_config(item) if word != TRACEBACK]
        if HELP_ALL in typed:
            self.shows_all = True
            print(self.format_help())
            self.exit()
        self.typed = frozenset(word[2:].partition("=")[0].replace("-", "_") for word in typed if word.startswith("--"))
        if "--config" in typed:
            at = typed.index("--config")
            if at + 1 == len(typed):
                self.error("--config needs a file")
            self.config = Path(typed[at + 1])
            del typed[at : at + 2]
        elif not (self.typed & {*self.named_by, "help"} or "-h" in typed):
            self.config = self.default_config
        return [*([] if self.config is None else self._read_config(self.config)), *typed]

    def error(self, message: str) -> NoReturn:
        """Exit with the message alone: the usage of some hundred arguments would bury it."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)

    def format_help(self) -> str:
        """Return the help: this project's arguments, then those of the default config, then a hint at all others."""
        actions: dict[str, argparse.Action] = {}
        for action in self._actions:
            actions.setdefault(action.dest, action)  # a twin `--no_...` comes after its own
        in_config = set() if self.default_config is None else set(yaml.safe_load(self.default_config.read_text()))
        own = set(self.own)
        sections = {
            "arguments of this project": [name for name in actions if name in own],
            "arguments of transformers and trl that the recipes set": sorted(in_config & actions.keys() - own),
        }
        if self.shows_all:
            shown = {name for names in sections.values() for name in names}
            sections["all other arguments of transformers and trl"] = sorted(actions.keys() - shown)
        formatter = self._get_formatter()
        formatter.add_text("--config FILE reads arguments from YAML; the command line wins.")
        for title, names in sections.items():
            formatter.start_section(title)
            formatter.add_arguments([with_one_spelling(actions[name]) for name in names])
            formatter.end_section()
        hidden = not self.shows_all and bool(actions.keys() - own - {"help"})
        hint = f"{HELP_ALL} shows all arguments of transformers and trl. " if hidden else ""
        formatter.add_text(f"{hint}{TRACEBACK} shows where an error was raised.")
        return formatter.format_help()

    def _name_positional(self, words: list[str]) -> list[str]:
        """Put the names before the leading words that have none."""
        count = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
        if count > len(self.positional):
            self.error(f"{words[len(self.positional)]!r} is no argument: arguments begin with --")
        named = [f"--{name}={word}" for name, word in zip(self.positional, words[:count], strict=False)]
        return named + words[count:]

    def _read_config(self, file: Path) -> list[str]:
        if not file.is_file():
            self.error(f"there is no config file {file}")
        try:
            content = yaml.load(file.read_text(encoding="utf-8"), Loader=ConfigLoader)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            self.error(f"{file} is not YAML: {' '.join(str(error).split())}")
        if not isinstance(content, dict):
            self.error(f"{file} must be a mapping of argument names to values")
        known = {action.dest: action for action in self._actions}
        pairs = [*self.alternatives, *((b, a) for a, b in self.alternatives)]
        unset = {other for name, other in pairs if name in self.typed and other not in self.typed}
        arguments: list[str] = []
        for key, value in content.items():
            if key not in known:
                self.error(f"{file}: unknown key {key!r}")
            if value in (None, []) or key in unset:
                continue
            values = value if isinstance(value, list) else [value]
            option, words = f"--{key}", [as_typed(item) for item in values]
            if isinstance(value, list) != (known[key].nargs == "+"):
                kind = "a list" if known[key].nargs == "+" else "one value"
                self.error(f"{file}: {key} takes {kind}, got {value!r}")
            self._check_words(file, known[key], words)
            arguments += [f"{option}={words[0]}"] if len(words) == 1 else [option, *words]
        return arguments

    def _check_words(self, file: Path, action: argparse.Action, words: list[str]) -> None:
        """Convert every word as argparse will; an error names file and key."""
        key = action.dest
        for word in words:
            try:
                value = action.type(word) if callable(action.type) else word
            except (ValueError, TypeError) as error:
                self.error(f"{file}: {key}: {word!r} is not a {describe_type(action.type)} ({error})")
            except Exception as error:  # argparse.ArgumentTypeError, raised by HfArgumentParser's own types
                self.error(f"{file}: {key}: {error}")
            if action.choices is not None and value not in action.choices:
                self.error(f"{file}: {key}: {word!r} is not one of {', '.join(map(str, action.choices))}")


def with_one_spelling(action: argparse.Action) -> argparse.Action:
    """Return an action for the help, without the twin that is spelled with dashes."""
    shown = copy.copy(action)
    shown.option_strings = [option for option in action.option_strings if "-" not in option.lstrip("-")]
    return shown


def split_config(argument: str) -> list[str]:
    """Split `--config=file` into the two words `--config file`."""
    return argument.split("=", 1) if argument.startswith("--config=") else [argument]


def describe_type(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def as_typed(value: Any) -> str:
    """Return a YAML value as one would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)
