"""Parse YAML and command line into dataclasses; argparse checks every value of both.

`TrlParser` makes the values of `--config file.yaml` the parser's defaults, which argparse does not check: a wrong type
would surface hours later. Here they are put before the command line as if typed, so the command line wins.
"""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import TrlParser

from trainer_ext.command_line import TRACEBACK

LIBRARIES = ("transformers", "trl")
HELP_ALL = "--help_all"
TEACHER = "teacher_model_name_or_path"


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


class RecipeParser(TrlParser):
    """`TrlParser` that refuses unknown keys and wrong types in the YAML file too, in one line.

    Args:
        dataclass_types: the dataclasses to fill.
        default_config: the file to read when the command line names neither `--config` nor one of `named_by`.
        always: words appended to every command line.
        positional: arguments that may be given without their names, in this order, before all others.
        named_by: arguments that say what a run is about; with one of them, the default config is not read.
        alternatives: pairs of arguments of which one is set: typing one unsets the file's other.

    Attributes:
        resolved: after parsing, every argument with its value; as YAML, a config that repeats the run.
        config: the file that was read; None for none.
        typed: the arguments of the command line.
    """

    def __init__(
        self,
        dataclass_types: Sequence[type],
        default_config: Path | None = None,
        always: Sequence[str] = (),
        alternatives: Sequence[tuple[str, str]] = (),
        named_by: Sequence[str] = ("model_name_or_path",),
        positional: Sequence[str] = (),
    ) -> None:
        super().__init__(list(dataclass_types), allow_abbrev=False)
        self.positional = list(positional)
        self.always = list(always)
        self.default_config = default_config
        self.named_by = {*named_by, "help"}
        self.alternatives = [*alternatives, *((b, a) for a, b in alternatives)]
        self.resolved: dict[str, Any] = {}
        self.config: Path | None = None
        self.typed: set[str] = set()
        self._own = find_own_fields(dataclass_types)
        self._shows_all = False

    @property
    def uses_default_config(self) -> bool:
        """Tell whether the file that was read was named by nobody."""
        return self.config is not None and self.config == self.default_config and "config" not in self.typed

    def parse_args_and_config(self, args: Sequence[str] | None = None, **_: Any) -> tuple[Any, ...]:
        """Return the dataclasses in their order; exits with code 2 and the key's name on a bad key or value."""
        typed = self._name_positional(list(sys.argv[1:] if args is None else args))
        typed = [word for item in [*typed, *self.always] for word in split_config(item) if word != TRACEBACK]
        if HELP_ALL in typed:
            self._shows_all = True
            print(self.format_help())
            self.exit()
        self.typed = {word[2:].partition("=")[0].replace("-", "_") for word in typed if word.startswith("--")}
        if "--config" in typed:
            at = typed.index("--config")
            if at + 1 == len(typed):
                self.error("--config needs a file")
            self.config = Path(typed[at + 1])
            del typed[at : at + 2]
        elif not (self.typed & self.named_by or "-h" in typed):
            self.config = self.default_config
        from_file = [] if self.config is None else self._read_config(self.config)
        values = vars(self.parse_args(from_file + typed))
        self.resolved = {key: value for key, value in values.items() if value not in (None, [])}
        try:
            return self.parse_args_into_dataclasses(args=from_file + typed, look_for_args_file=False)
        except ValueError as error:  # of a dataclass's __post_init__
            self.error(str(error))

    def check_teacher_named(self) -> None:
        """Raise ValueError if questions were typed, and their teacher comes from the default config."""
        given = "questions" in self.typed and bool(self.resolved.get("questions"))
        if self.uses_default_config and given and TEACHER not in self.typed:
            raise ValueError(
                "questions without --config: the teacher that would answer is the tiny lab's, a toy that knows the "
                f"lab's questions alone. Name a recipe by --config, or --{TEACHER}"
            )

    def describe_source(self) -> str:
        """Return the file that was read, and what was typed."""
        file = "no file" if self.config is None else str(self.config)
        hint = " (the default: no --config was given)" if self.uses_default_config else ""
        typed = [f"{name} {self.resolved[name]}" for name in sorted(self.typed & self.resolved.keys())]
        return f"{file}{hint}" + (f"; typed: {', '.join(typed)}" if typed else "")

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
        sections = {
            "arguments of this project": [name for name in actions if name in self._own],
            "arguments of transformers and trl that the recipes set": sorted(in_config & actions.keys() - self._own),
        }
        if self._shows_all:
            shown = {name for names in sections.values() for name in names}
            sections["all other arguments of transformers and trl"] = sorted(actions.keys() - shown)
        formatter = self._get_formatter()
        formatter.add_text("--config FILE reads arguments from YAML; the command line wins.")
        for title, names in sections.items():
            formatter.start_section(title)
            formatter.add_arguments([with_one_spelling(actions[name]) for name in names])
            formatter.end_section()
        hidden = not self._shows_all and bool(actions.keys() - self._own - {"help"})
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
        unset = {other for name, other in self.alternatives if name in self.typed and other not in self.typed}
        arguments: list[str] = []
        for key, value in content.items():
            if key not in known:
                self.error(f"{file}: unknown key {key!r}")
            if value in (None, []) or key in unset:
                continue
            values = value if isinstance(value, list) else [value]
            option, words = f"--{key}", [_as_typed(item) for item in values]
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


def find_own_fields(dataclass_types: Sequence[type]) -> set[str]:
    """Return the arguments that this project declares, in classes of its own."""
    return {
        name
        for kind in dataclass_types
        for base in kind.__mro__
        if not base.__module__.startswith(LIBRARIES)
        for name in vars(base).get("__annotations__", {})
    }


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


def _as_typed(value: Any) -> str:
    """Return a YAML value as one would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)
