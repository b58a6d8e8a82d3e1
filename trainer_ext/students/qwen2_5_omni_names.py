"""What a weight of Qwen2.5-Omni is called where.

    in memory              model.language_model.X          model.audio_tower.X    model.visual.X    lm_head.X
    saved thinker          model.X                         audio_tower.X          visual.X          lm_head.X
    published full model   thinker.model.X                 thinker.audio_tower.X  thinker.visual.X  thinker.lm_head.X
    full model in memory   thinker.model.language_model.X  and so on: the first line, with "thinker." before it
    vLLM's adapters        thinker.model.X                 none: it takes adapters of the language model alone

The first three lines are those of transformers 5 (conversion_mapping.py) and of the published weight index. vLLM's
mapper (`hf_to_vllm_mapper` of vllm/model_executor/models/qwen2_5_omni_thinker.py) knows the published names alone; a
key of any other form is loaded there without a word and without effect.
"""

FULL_MODEL = "thinker."  # before the name of every weight of the thinker in a full checkpoint
_SAVED_OF_MEMORY = {
    "model.language_model.": "model.",
    "model.audio_tower.": "audio_tower.",
    "model.visual.": "visual.",
    "lm_head.": "lm_head.",
}


def to_checkpoint_name(name: str) -> str:
    """The name under which a saved thinker keeps the weight called `name` in memory."""
    for memory, saved in _SAVED_OF_MEMORY.items():
        if name.startswith(memory):
            return saved + name.removeprefix(memory)
    raise ValueError(f"{name} is no weight of the thinker")


def to_memory_name(name: str) -> str | None:
    """The name in memory of a weight of a full checkpoint or a saved thinker; None for talker and token2wav."""
    name = name.removeprefix(FULL_MODEL)
    for memory in _SAVED_OF_MEMORY:
        if name.startswith(memory):
            return name
    for memory, saved in _SAVED_OF_MEMORY.items():
        if name.startswith(saved):
            return memory + name.removeprefix(saved)
    return None


def to_full_model_name(name: str) -> str:
    """The module of the full model in memory that is called `name` in the thinker alone."""
    return FULL_MODEL + name


def to_vllm_name(name: str) -> str:
    """What vLLM's weight mapper calls the module `name` of the language model.

    Raises:
        ValueError: the module is not of the language model, which alone takes adapters there.
    """
    if not name.startswith("model.language_model."):
        raise ValueError(
            f"vLLM takes adapters of the language model alone, and this one has {name}"
        )
    return FULL_MODEL + to_checkpoint_name(name)
