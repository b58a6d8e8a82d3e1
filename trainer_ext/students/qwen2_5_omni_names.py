"""Parameter names of Qwen2.5-Omni in each of its five layouts.

    in memory              model.language_model.X          model.audio_tower.X    model.visual.X    lm_head.X
    saved thinker          model.X                         audio_tower.X          visual.X          lm_head.X
    published full model   thinker.model.X                 thinker.audio_tower.X  thinker.visual.X  thinker.lm_head.X
    full model in memory   thinker.model.language_model.X  ... the first line with the prefix "thinker."
    vLLM's adapters        thinker.model.X                 none: vLLM takes adapters of the language model alone

The first three lines are those of transformers 5 (conversion_mapping.py) and of the published weight index. vLLM's
mapper (`hf_to_vllm_mapper` of vllm/model_executor/models/qwen2_5_omni_thinker.py) knows the published names alone; a
key of any other form is loaded there without a warning and without effect.
"""

FULL_MODEL = "thinker."  # prefix of every weight of the thinker in a full checkpoint
_SAVED_OF_MEMORY = {
    "model.language_model.": "model.",
    "model.audio_tower.": "audio_tower.",
    "model.visual.": "visual.",
    "lm_head.": "lm_head.",
}


def to_saved_name(memory_name: str) -> str:
    """Return the name in a saved thinker of a weight in memory."""
    for memory, saved in _SAVED_OF_MEMORY.items():
        if memory_name.startswith(memory):
            return saved + memory_name.removeprefix(memory)
    raise ValueError(f"{memory_name} is no weight of the thinker")


def to_checkpoint_name(memory_name: str) -> str:
    """Return the name in a published full checkpoint of a weight in memory."""
    return FULL_MODEL + to_saved_name(memory_name)


def to_memory_name(checkpoint_name: str) -> str | None:
    """Return the name in memory of a weight of a full checkpoint or a saved thinker; None for talker and token2wav."""
    name = checkpoint_name.removeprefix(FULL_MODEL)
    for memory in _SAVED_OF_MEMORY:
        if name.startswith(memory):
            return name
    for memory, saved in _SAVED_OF_MEMORY.items():
        if name.startswith(saved):
            return memory + name.removeprefix(saved)
    return None


def to_thinker_name(checkpoint_name: str) -> str:
    """Return the name in a thinker of its own of a weight of a full checkpoint."""
    return checkpoint_name.removeprefix(FULL_MODEL)


def to_full_model_name(module: str) -> str:
    """Return the module of the full model in memory for a module of the thinker in memory."""
    return FULL_MODEL + module


def to_vllm_name(module: str) -> str:
    """Return the name that vLLM's weight mapper knows for a module of the language model in memory.

    Raises:
        ValueError: the module is outside the language model, which alone takes adapters there.
    """
    if not module.startswith("model.language_model."):
        raise ValueError(f"vLLM takes adapters of the language model alone, and this one has {module}")
    return to_checkpoint_name(module)
