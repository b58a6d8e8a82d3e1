"""Serve a TTS model by OpenAI's speech API, in its own environment: CosyVoice 2 or 3, or espeak-ng.

    GET  /v1/models
    GET  /v1/audio/voices
    POST /v1/audio/speech    {"model", "input", "voice", "speed", "response_format": "wav" or "flac", "sample_rate"}

For espeak-ng alone this file imports the engine of this repository. README.md has the set-up.

    python serve.py --model pretrained_models/Fun-CosyVoice3-0.5B --voices voices.yaml --port 8001
    python serve.py --model espeak --port 8001

The model synthesizes one text at a time. Up to --max_waiting requests wait, further ones get status 429. Equal requests
get equal audio: the seed is a hash of text, voice and speed. A request has 15 s and 64 KB to arrive. An address that
others can reach (--host 0.0.0.0) needs a key in SPEECH_API_KEY; clients send it by OPENAI_API_KEY.
"""

import argparse
import hashlib
import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import soundfile
import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from request_limits import MAX_CONNECTIONS, LimitRequests, TimedProtocol, answer_error, is_loopback
from starlette.exceptions import HTTPException

MAX_CHARACTERS = 4096  # as OpenAI's
SAMPLE_RATES_HZ = (8_000, 48_000)
SPEEDS = (0.5, 2.0)
PROMPT_MIN_HZ, PROMPT_MAX_SECONDS = 16_000, 30.0  # of CosyVoice
COSYVOICE_3_PREFIX = "You are a helpful assistant.<|endofprompt|>"


class SpeechRequest(BaseModel):
    """The body of a speech request."""

    input: str
    voice: str
    model: str = ""
    speed: float = 1.0
    response_format: str = "wav"
    sample_rate: int | None = None  # None: the model's own


class Refusal(Exception):
    """Invalid request (status 400). The message names the reason and the way out."""


class CosyVoice:
    """CosyVoice 2 or 3 by its own package, cloning the voices of prompt clips.

    Args:
        model_dir: folder of the weights.
        voices: name -> {"clip": path of a WAV or FLAC file, "text": its transcript}.
    """

    def __init__(self, model_dir: str, voices: dict[str, dict[str, str]]) -> None:
        from cosyvoice.cli.cosyvoice import AutoModel

        self._voices = voices
        self._faults = {name: find_clip_fault(voice) for name, voice in voices.items()}
        for name, fault in self._faults.items():
            if fault:
                print(f"voice {name} will be refused: {fault}", file=sys.stderr)
        self._model = AutoModel(model_dir=model_dir)
        self._prefix = COSYVOICE_3_PREFIX if "CosyVoice3" in model_dir else ""
        self.sample_rate_hz = self._model.sample_rate

    def list_voices(self) -> list[str]:
        return sorted(self._voices)

    def speak(self, text: str, voice: str, speed: float) -> np.ndarray:
        """Return samples (n,) float32."""
        import torch

        if voice not in self._voices:
            raise Refusal(f"unknown voice {voice!r}; known are {', '.join(self.list_voices())}")
        if self._faults[voice]:
            raise Refusal(f"voice {voice!r}: {self._faults[voice]}")
        torch.manual_seed(draw_seed(text, voice, speed))
        prompt = self._voices[voice]
        pieces = self._model.inference_zero_shot(
            text, self._prefix + prompt["text"], prompt["clip"], stream=False, speed=speed
        )
        return torch.cat([piece["tts_speech"] for piece in pieces], dim=1)[0].cpu().numpy()


class Espeak:
    """espeak-ng by the engine of this repository, for tests of a client without a GPU."""

    sample_rate_hz = 22_050
    WORDS_PER_MINUTE = 170

    def __init__(self) -> None:
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from data_builders.speech.tts.espeak import EspeakEngine

        self._engine = EspeakEngine()

    def list_voices(self) -> list[str]:
        return ["en-us", "en-gb-x-rp", "en-gb-scotland", "en-029", "any other of espeak-ng"]

    def speak(self, text: str, voice: str, speed: float) -> np.ndarray:
        """Return samples (n,) float32."""
        rate = round(self.WORDS_PER_MINUTE * speed)
        try:
            return self._engine.synthesize(text, f"{voice}/{rate}")[0]
        except ValueError as error:
            raise Refusal(str(error)) from error


def find_clip_fault(voice: dict[str, str]) -> str:
    """Return the reason why a prompt clip cannot be cloned, or an empty string."""
    if not Path(voice["clip"]).is_file():
        return f"there is no file {voice['clip']}"
    clip = soundfile.info(voice["clip"])
    if clip.samplerate < PROMPT_MIN_HZ:
        return f"its clip has a sampling rate of {clip.samplerate} Hz, and {PROMPT_MIN_HZ} is the least"
    if clip.duration > PROMPT_MAX_SECONDS:
        return f"its clip lasts {clip.duration:.1f} s, and {PROMPT_MAX_SECONDS:g} is the most"
    return ""


def draw_seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def check_request(asked: SpeechRequest) -> None:
    """Raise `Refusal` for a request out of range."""
    if not asked.input.strip():
        raise Refusal("the input is empty")
    if len(asked.input) > MAX_CHARACTERS:
        raise Refusal(f"the input has {len(asked.input)} characters, and {MAX_CHARACTERS} is the most")
    if not SPEEDS[0] <= asked.speed <= SPEEDS[1]:
        raise Refusal(f"speed is {asked.speed}; it is from {SPEEDS[0]} to {SPEEDS[1]}")
    if asked.response_format not in ("wav", "flac"):
        raise Refusal(f"response_format is {asked.response_format!r}; it is wav or flac")
    low, high = SAMPLE_RATES_HZ
    if asked.sample_rate is not None and not low <= asked.sample_rate <= high:
        raise Refusal(f"sample_rate is {asked.sample_rate}; it is from {low} to {high} Hz")


def encode(samples: np.ndarray, rate_hz: int, asked: SpeechRequest) -> bytes:
    """Return the samples as an audio file of the requested rate and format."""
    wanted = asked.sample_rate or rate_hz
    if wanted != rate_hz:
        import soxr

        samples = soxr.resample(samples, rate_hz, wanted)
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), wanted, format=asked.response_format.upper())
    return file.getvalue()


def make_app(voice_model: "CosyVoice | Espeak", name: str, max_waiting: int) -> FastAPI:
    """Return the HTTP application around one model."""
    app = FastAPI()
    speaking, waiting = threading.Lock(), threading.BoundedSemaphore(max_waiting)

    @app.exception_handler(Refusal)
    async def refuse(_: Request, error: Refusal) -> JSONResponse:
        return answer_error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def refuse_malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer_error(400, "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors()))

    @app.exception_handler(HTTPException)
    async def refuse_request(_: Request, error: HTTPException) -> JSONResponse:
        return answer_error(error.status_code, error.detail)

    @app.get("/v1/models")
    def list_models() -> dict:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "local"}]}

    @app.get("/v1/audio/voices")
    def list_voices() -> dict:
        return {"voices": voice_model.list_voices()}

    @app.post("/v1/audio/speech")
    def speak(asked: SpeechRequest) -> Response:
        check_request(asked)
        if not waiting.acquire(blocking=False):
            return answer_error(429, f"{max_waiting} requests are waiting", {"Retry-After": "1"})
        try:
            with speaking:
                samples = voice_model.speak(asked.input, asked.voice, asked.speed)
        finally:
            waiting.release()
        body = encode(samples, voice_model.sample_rate_hz, asked)
        return Response(body, media_type=f"audio/{asked.response_format}")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder of CosyVoice's weights, or espeak")
    parser.add_argument("--voices", type=Path, help="YAML: name -> clip, text (CosyVoice)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--max_waiting", type=int, default=16)
    arguments = parser.parse_args()
    key = os.environ.get("SPEECH_API_KEY")
    if not key and not is_loopback(arguments.host):
        parser.error(f"--host {arguments.host}: others can reach it, so set a key for them in SPEECH_API_KEY")
    if arguments.model == "espeak":
        voice_model = Espeak()
    elif arguments.voices is None:
        parser.error("--voices: CosyVoice clones the clips that it names")
    else:
        voice_model = CosyVoice(arguments.model, yaml.safe_load(arguments.voices.read_text()))
    app = make_app(voice_model, Path(arguments.model).name, arguments.max_waiting)
    uvicorn.run(
        LimitRequests(app, key),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        http=TimedProtocol,
        limit_concurrency=MAX_CONNECTIONS,
    )


if __name__ == "__main__":
    main()
