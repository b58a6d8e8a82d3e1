"""Parse YAML and command line into dataclasses; argparse checks every value of both.

`TrlParser` makes the values of `--config file.yaml` the parser's defaults, which argparse does not check: a wrong type
would surface hours later. Here they are put before the command line as if typed, so the command line wins.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl import TrlParser

from trainer_ext.early_answers import remember
from trainer_ext.recipe_words import OPENED, RecipeWords

LIBRARIES = ("transformers", "trl")
TEACHER = "teacher_model_name_or_path"


class RecipeParser(RecipeWords, TrlParser):
    """`TrlParser` that refuses unknown keys and wrong types in the YAML file too, in one line.

    Args:
        dataclass_types: the dataclasses to fill.
        default_config, always, alternatives, named_by, opened, positional: see `RecipeWords`.

    Attributes:
        resolved: after parsing, every argument with its value; as YAML, a config that repeats the run.
    """

    def __init__(
        self,
        dataclass_types: Sequence[type],
        default_config: Path | None = None,
        always: Sequence[str] = (),
        alternatives: Sequence[tuple[str, str]] = (),
        named_by: Sequence[str] = ("model_name_or_path",),
        opened: Sequence[str] = OPENED,
        positional: Sequence[str] = (),
    ) -> None:
        TrlParser.__init__(self, list(dataclass_types), allow_abbrev=False)
        self.default_config = default_config
        self.always, self.positional, self.named_by, self.alternatives = always, positional, named_by, alternatives
        self.opened = opened
        self.own = sorted(find_own_fields(dataclass_types))
        self.resolved: dict[str, Any] = {}

    @property
    def uses_default_config(self) -> bool:
        """Tell whether the file that was read was named by nobody."""
        return self.config is not None and self.config == self.default_config and "config" not in self.typed

    def parse_args_and_config(self, args: Sequence[str] | None = None, **_: Any) -> tuple[Any, ...]:
        """Return the dataclasses in their order; exits with code 2 and the key's name on a bad key or value."""
        remember(self)
        words = self.read_words(sys.argv[1:] if args is None else args)
        values = vars(self.parse_args(words))
        self.resolved = {key: value for key, value in values.items() if value not in (None, [])}
        try:
            return self.parse_args_into_dataclasses(args=words, look_for_args_file=False)
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


def find_own_fields(dataclass_types: Sequence[type]) -> set[str]:
    """Return the arguments that this project declares, in classes of its own."""
    return {
        name
        for kind in dataclass_types
        for base in kind.__mro__
        if not base.__module__.startswith(LIBRARIES)
        for name in vars(base).get("__annotations__", {})
    }
