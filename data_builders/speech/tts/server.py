"""Speech of any server with OpenAI's POST /v1/audio/speech; recipes/speech_service is one, with CosyVoice.

A voice is written `name[/speed]`: "alice", "alice/1.1". Responses are WAV or FLAC of any sampling rate.
"""

import io

import numpy as np

from data_builders.arguments import SpeechArguments
from data_builders.audio import read_samples
from data_builders.clients.openai import connect, map_request_errors
from data_builders.redaction import hide_credentials

TIMEOUT_SECONDS = 300.0


class ServerEngine:
    """A model behind a server.

    Args:
        base_url: for instance http://localhost:8001/v1
        model: its name at the server.
        in_flight: requests at a time.
    """

    name = "server"

    def __init__(self, base_url: str, model: str, in_flight: int) -> None:
        self.base_url, self.model, self.in_flight = base_url, model, in_flight
        self._client = connect(base_url, TIMEOUT_SECONDS)

    @classmethod
    def from_arguments(cls, arguments: SpeechArguments) -> "ServerEngine":
        assert arguments.speech_base_url is not None
        return cls(arguments.speech_base_url, arguments.speech_model, arguments.speech_concurrency)

    @staticmethod
    def check_voices(voices: list[str]) -> None:
        """Accept all voices: the server knows them, and refuses rows with others."""

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Synthesize `text`; see `SpeechEngine`."""
        name, _, speed = voice.partition("/")
        try:
            rate = float(speed or 1)
        except ValueError as error:
            raise ValueError(f"voice {voice!r}: write name[/speed], for example alice/1.1") from error
        with map_request_errors(self.base_url):
            response = self._client.audio.speech.create(
                model=self.model, input=text, voice=name, response_format="wav", speed=rate
            )
            body = response.read()
        return read_samples(io.BytesIO(body), f"the answer of {hide_credentials(self.base_url)}")

    def close(self) -> None:
        self._client.close()
