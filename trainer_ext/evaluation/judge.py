"""A judge behind any OpenAI-compatible server; each vote is cached by content, so that a rerun asks nothing twice.

The key of the server is read from OPENAI_API_KEY by the client, and written nowhere.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from openai import APIStatusError
from tqdm import tqdm

from data_builders.clients.concurrent import map_concurrent
from data_builders.clients.openai import connect, map_request_errors, read_choice, read_reply
from data_builders.outcomes import Rejected
from data_builders.storage.call_cache import CallCache, content_key

CHECK_SECONDS = 20.0
PARSE_TRIES = 3  # replies to ask for until one can be read


class JudgeSettings(NamedTuple):
    """The judge.

    Attributes:
        votes: replies per answer; several are worth it only above temperature 0.
        in_flight: requests at a time.
    """

    base_url: str
    model: str
    votes: int = 1
    temperature: float = 0.0
    in_flight: int = 8


class Vote(NamedTuple):
    """One question to the judge."""

    prompt: int
    number: int


class ServerJudge:
    """Asks for votes and reads them."""

    def __init__(self, settings: JudgeSettings, cache: Path) -> None:
        self.settings = settings
        self.client = connect(settings.base_url)
        self.cache = CallCache(cache)

    def check(self) -> None:
        """Raise ServerUnreachable if nobody answers at the server's address."""
        with map_request_errors(self.settings.base_url):
            try:
                self.client.with_options(max_retries=0, timeout=CHECK_SECONDS).models.with_raw_response.list()
            except APIStatusError:
                return  # somebody answers, without a list of models

    def ask(self, prompts: Sequence[str], pattern: str) -> list[list[str] | Rejected]:
        """Return the votes on every prompt, or why one of them could not be had.

        Args:
            pattern: a regular expression with one group, which is the vote in lower case.

        Raises:
            ServerUnreachable: nothing can be asked now.
        """
        failures: dict[str, str] = {}  # by key
        votes = [Vote(i, n) for i in range(len(prompts)) for n in range(self.settings.votes)]
        keys = {vote: self._key(prompts[vote.prompt], pattern, vote.number) for vote in votes}
        missing = set(self.cache.missing(keys.values()))
        asked = {keys[vote]: vote for vote in votes if keys[vote] in missing}  # equal prompts once

        def request(vote: Vote) -> str:
            return self._request(prompts[vote.prompt], pattern)

        results = map_concurrent(request, asked.values(), self.settings.in_flight)
        for vote, reply in tqdm(results, total=len(asked), desc="judge", unit="vote", disable=not asked):
            if isinstance(reply, str):
                self.cache.put(keys[vote], reply.encode())
            else:
                failures[keys[vote]] = str(reply)
        return [
            self._collect([keys[Vote(i, n)] for n in range(self.settings.votes)], failures) for i in range(len(prompts))
        ]

    def _collect(self, keys: list[str], failures: dict[str, str]) -> list[str] | Rejected:
        """Return the votes of one prompt."""
        for key in keys:
            if key in failures:
                return Rejected("scores", "not_judged", failures[key])
        return [self.cache.read(key, bytes.decode) or "" for key in keys]

    def _request(self, prompt: str, pattern: str) -> str:
        """Return one vote.

        Raises:
            ValueError: no reply could be read.
            TemporaryFailure: the server failed on every try.
        """
        reply = ""
        for attempt in range(PARSE_TRIES):
            with map_request_errors(self.settings.base_url):
                raw = self.client.chat.completions.with_raw_response.create(
                    model=self.settings.model,
                    messages=[{"role": "user", "content": prompt}],
                    # A judge that decodes greedily would say the same again.
                    temperature=self.settings.temperature if attempt == 0 else max(self.settings.temperature, 0.5),
                    max_tokens=16,
                )
            reply, _ = read_choice(read_reply(raw, self.settings.base_url), self.settings.base_url)
            if found := re.search(pattern, reply.strip(), re.IGNORECASE):
                return found[1].lower()
        raise ValueError(f"the judge's reply cannot be read: {reply.strip()[:100]!r}")

    def _key(self, prompt: str, pattern: str, number: int) -> str:
        settings = self.settings
        return content_key("judge 1", settings.model, settings.temperature, pattern, prompt, number)

    def close(self) -> None:
        self.client.close()
        self.cache.close()
