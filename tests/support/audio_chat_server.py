"""An OpenAI-compatible chat around a student, which takes audio: for models that `transformers serve` cannot ask so."""

import base64
import io
import threading
from typing import Any

from data_builders.audio import read_speech
from tests.support.json_server import JsonServer, make_completion
from trainer_ext.evaluation.generation import generate_greedily, pad_prompts

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}


class AudioChatServer(JsonServer):
    """The student behind /v1/chat/completions and /v1/models, for the `with` block; one question at a time."""

    def __init__(self, model: Any, family: Any) -> None:
        lock = threading.Lock()

        def reply(_: dict[str, str], content: Any) -> tuple[int, Any]:
            system, user = (message["content"] for message in content["messages"])
            with lock:
                answer = ask(model, family, system, user, content["max_tokens"])
            return 200, make_completion(answer.text, answer.finish_reason)

        super().__init__(reply, MODELS)


def ask(model: Any, family: Any, system: str, user: Any, max_new_tokens: int) -> Any:
    """Return the model's answer to a user's turn: a text, a clip, or a clip and a text."""
    if isinstance(user, str):
        inputs = pad_prompts(family, [family.encode_text_prompt(user, system)], [])
    else:
        data = base64.b64decode(next(part for part in user if part["type"] == "input_audio")["input_audio"]["data"])
        clip = read_speech(io.BytesIO(data), "the clip")
        text = "".join(part["text"] for part in user if part["type"] == "text")
        if text:
            prompt = family.encode_audio_prompt(len(clip), text, system)
        else:
            prompt = family.encode_speech_prompt(len(clip), system)
        inputs = pad_prompts(family, [prompt], [clip])
    return generate_greedily(model.eval(), family, inputs, max_new_tokens)[0]
