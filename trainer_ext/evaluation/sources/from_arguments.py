"""The models that an evaluation asks, by its arguments."""

from data_builders.causal_lm import TeacherSettings
from data_builders.hub.ids import split_revision
from trainer_ext.evaluation.arguments import ModelsArguments
from trainer_ext.evaluation.sources.base import AnswerSource
from trainer_ext.evaluation.sources.openai_server import ServerSource
from trainer_ext.evaluation.sources.student import LoadSettings, SharedStudent
from trainer_ext.evaluation.sources.text_llm import TextLLMSource

BASE = "base"


def make_sources(models: ModelsArguments) -> list[AnswerSource]:
    """Return the models of a report, those of one base beside each other; nothing is loaded yet."""
    sources: list[AnswerSource] = []

    def share(name: str, revision: str) -> SharedStudent:
        return SharedStudent(LoadSettings(name, revision, models.dtype, models.load_in_4bit))

    if models.model_name_or_path is not None:
        shared = share(models.model_name_or_path, models.model_revision)
        sources.append(shared.make_source(BASE, batch_size=models.batch_size))
        for adapter in models.adapters:
            sources.append(shared.make_source(name_model(adapter, sources), adapter, batch_size=models.batch_size))
    for name in models.other_models:
        label = name_model(name, sources)
        name, revision = split_revision(name, "main")
        sources.append(share(name, revision or "main").make_source(label, batch_size=models.batch_size))
    if models.server_base_url is not None:
        assert models.server_model is not None
        label = name_model(f"{models.server_model} at a server", sources)
        sources.append(
            ServerSource(
                label, models.server_base_url, models.server_model, models.server_concurrency, models.server_takes_audio
            )
        )
    if models.teacher_model_name_or_path is not None:
        settings = read_teacher(models, models.teacher_model_name_or_path)
        sources.append(TextLLMSource(name_model("teacher", sources), settings, models.batch_size))
    return sources


def read_teacher(models: ModelsArguments, name_or_path: str) -> TeacherSettings:
    """Return how the text LLM is loaded."""
    return TeacherSettings(name_or_path, models.teacher_model_revision, models.dtype, models.teacher_load_in_4bit)


def name_model(name_or_path: str, others: list[AnswerSource]) -> str:
    """Return the last part of a name, or all of it, or that with a number, unlike any other model's."""
    taken = {source.label for source in others}
    candidates = [name_or_path.rstrip("/").rpartition("/")[2], name_or_path]
    candidates += [f"{name_or_path} ({number})" for number in range(2, len(taken) + 3)]
    return next(label for label in candidates if label not in taken)
