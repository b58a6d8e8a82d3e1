"""A placeholder for a part of a model that stays on disk."""

from torch import nn


class UnloadedModule(nn.Module):
    """Takes the place of a module without its weights, and records the checkpoint that has them."""

    def __init__(self, name_or_path: str, revision: str | None) -> None:
        super().__init__()
        self.name_or_path = name_or_path
        self.revision = revision

    def forward(self, *_, **__):
        raise RuntimeError(
            "this part of the model was not loaded: the student takes text and audio; load the whole model by "
            "transformers for other inputs"
        )
