"""Parse YAML and command line into dataclasses; argparse checks every value of both.

`TrlParser` makes the values of `--config file.yaml` the parser's defaults, which argparse does not check: a wrong type
would surface hours later. Here they are put before the command line as if typed, so the command line wins.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import TrlParser


class RecipeParser(TrlParser):
    """`TrlParser` that refuses unknown keys and wrong types in the YAML file too, in one line.

    Args:
        dataclass_types: the dataclasses to fill.
        default_config: the file to read when the command line names neither `--config` nor a model.
        always: words appended to every command line.

    Attributes:
        resolved: after parsing, every argument with its value; as YAML, a config that repeats the run.
    """

    def __init__(
        self,
        dataclass_types: Sequence[type],
        default_config: Path | None = None,
        always: Sequence[str] = (),
    ) -> None:
        super().__init__(list(dataclass_types), allow_abbrev=False)
        self.always = list(always)
        self.default_config = default_config
        self.resolved: dict[str, Any] = {}

    def parse_args_and_config(self, args: Sequence[str] | None = None, **_: Any) -> tuple[Any, ...]:
        """Return the dataclasses in their order; exits with code 2 and the key's name on a bad key or value."""
        typed = list(sys.argv[1:] if args is None else args)
        typed = [word for item in [*typed, *self.always] for word in split_config(item)]
        config = None
        if "--config" in typed:
            at = typed.index("--config")
            if at + 1 == len(typed):
                self.error("--config needs a file")
            config = Path(typed[at + 1])
            del typed[at : at + 2]
        elif not any(argument.startswith(("--model_name_or_path", "-h", "--help")) for argument in typed):
            config = self.default_config
        from_file = [] if config is None else self._read_config(config)
        values = vars(self.parse_args(from_file + typed))
        self.resolved = {key: value for key, value in values.items() if value not in (None, [])}
        try:
            return self.parse_args_into_dataclasses(args=from_file + typed, look_for_args_file=False)
        except ValueError as error:  # of a dataclass's __post_init__
            self.error(str(error))

    def error(self, message: str) -> NoReturn:
        """Exit with the message alone: the usage of some hundred arguments would bury it."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)

    def _read_config(self, file: Path) -> list[str]:
        if not file.is_file():
            self.error(f"there is no config file {file}")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            self.error(f"{file} is not YAML: {' '.join(str(error).split())}")
        if not isinstance(content, dict):
            self.error(f"{file} must be a mapping of argument names to values")
        known = {action.dest: action for action in self._actions}
        arguments: list[str] = []
        for key, value in content.items():
            if key not in known:
                self.error(f"{file}: unknown key {key!r}")
            if value in (None, []):
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
