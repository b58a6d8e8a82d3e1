"""The regexes in an adapter's config, tried on a model's module names before PEFT applies them.

PEFT reads nearly every name in adapter_config.json as a regex. One that backtracks would hang the loading for hours.
"""

import re
from collections.abc import Iterator

from peft import PeftConfig
from torch import nn

from data_builders.time_limit import time_limit

SECONDS = 3.0  # ten patterns on the 2,000 modules of a 7B model take 0.02


def check_patterns(config: PeftConfig, model: nn.Module, name: str) -> None:
    """Raise ValueError for a regex that is none, or takes too long.

    Args:
        model: the model that the adapter is for.
        name: of the adapter, for the message.
    """
    modules = [path for path, _ in model.named_modules()]
    try:
        patterns = list(list_patterns(config))
    except TypeError as error:
        raise ValueError(f"adapter_config.json of {name} has values of other types than PEFT's ({error})") from error
    for setting, pattern in patterns:
        fault = f"{setting} of the adapter {name} is a regex that cannot be matched with the module names"
        try:
            compiled = re.compile(pattern)
            with time_limit(SECONDS, fault):
                for module in modules:
                    compiled.fullmatch(module)
        except (re.error, RecursionError) as error:
            raise ValueError(f"{setting} of the adapter {name} is no regex: {error}") from error


def list_patterns(config: PeftConfig) -> Iterator[tuple[str, str]]:
    """Yield every setting that PEFT matches as a regex, in the form in which it does."""
    for setting in ("target_modules", "exclude_modules"):
        if isinstance(pattern := getattr(config, setting, None), str):
            yield setting, pattern
    for setting in ("rank_pattern", "alpha_pattern"):
        for key in getattr(config, setting, None) or {}:
            yield setting, rf"(.*\.)?({key})"
    for key in getattr(config, "modules_to_save", None) or ():
        yield "modules_to_save", rf"(^|.*\.){key}($|\..*)"
    layers = getattr(config, "layers_pattern", None) or ()
    for key in [layers] if isinstance(layers, str) else layers:
        yield "layers_pattern", rf"(?:^|.*?\.){key}\.(?P<idx>\d+)\..*"
