"""Registries: literal dictionaries from a name to "module:Class". Nothing is imported before it is chosen."""

import importlib
from collections.abc import Mapping
from typing import Any


def load_class(registry: Mapping[str, str], name: str, option: str) -> Any:
    """Import the class registered under `name`.

    Args:
        option: the argument that chose the name, for the message.

    Raises:
        ValueError: the name is not registered.
    """
    if name not in registry:
        raise ValueError(f"{option}: unknown {name!r}; known are {', '.join(registry)}")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
