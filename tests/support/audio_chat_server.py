"""An OpenAI-compatible chat around a student, which takes audio: for models that `transformers serve` cannot ask so."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_builders.audio import read_speech
from trainer_ext.evaluation.generation import generate_greedily, pad_prompts


class AudioChatServer:
    """The student behind /v1/chat/completions and /v1/models, for the `with` block; one question at a time."""

    def __init__(self, model: Any, family: Any) -> None:
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                system, user = (message["content"] for message in body["messages"])
                with lock:
                    answer = ask(model, family, system, user, body["max_tokens"])
                message = {"role": "assistant", "content": answer.text}
                choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
                self.send({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

            def send(self, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "AudioChatServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


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
