"""Configs, tokenizers and causal LMs of other people's repositories, which are data here and never code.

A config with `auto_map` asks for Python files of its repository. Without an explicit no, transformers asks on the
terminal, and `yes |` answers. Weights are safetensors: a pickle can run code when it is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

# Read-only, because a pipeline of transformers adds its own arguments to what it is given.
WEIGHTS_ONLY = MappingProxyType({"use_safetensors": True})


def load_config(name_or_path: str, revision: str | None = None) -> PretrainedConfig:
    """Load the config of a model.

    Raises:
        ValueError: its class is code of its own repository.
    """
    with naming(name_or_path):
        return AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)


def load_tokenizer(name_or_path: str, revision: str | None = None, **options: Any) -> Any:
    """Load a tokenizer; see `load_config`.

    Where mistral-common is installed, transformers would take it for a Mistral's tokenizer: it has no chat template.
    """
    with naming(name_or_path):
        return AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=False, mistral_format=False, **options
        )


def load_causal_lm_weights(name_or_path: str, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """Load a causal LM from safetensors; see `load_config`."""
    with naming(name_or_path):
        return AutoModelForCausalLM.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=False, **WEIGHTS_ONLY, **options
        )


@contextmanager
def naming(name_or_path: str) -> Iterator[None]:
    """Translate errors of loading a model into ones that name it.

    transformers advises to trust a repository's code, and the errors of safetensors name no file.

    Raises:
        ValueError: the model needs code of its own, or its files are damaged.
    """
    try:
        yield
    except SafetensorError as error:
        raise ValueError(
            f"{name_or_path}: its safetensors cannot be read ({error}): a file is damaged, not downloaded completely, "
            "or a pointer of Git LFS. Download it again"
        ) from error
    except (TypeError, KeyError, AttributeError, RecursionError) as error:  # values of other types in its JSON files
        raise ValueError(f"{name_or_path}: its files cannot be used ({error!r}): download it again") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{name_or_path} needs Python code of its own repository, which is never run here: choose a model whose "
            "class is part of transformers"
        ) from error
