"""Soft targets: what is kept of a teacher, from a model or a server, and that no kill costs what was scored."""

import dataclasses

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets, load_from_disk
from transformers import AutoTokenizer

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.arguments import SoftTargetArguments
from data_builders.clients.concurrent import ServerUnreachable
from data_builders.soft_targets.cache import cache_soft_targets, make_settings, read_rows
from data_builders.soft_targets.openai_server import ServerScorer
from tests.conftest import TEACHER
from tests.support.logprob_server import LogprobHttpServer
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.top_k_scorer import TopKScorer

K, TEMPERATURES = 16, [1.0, 2.0]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TEACHER)


@pytest.fixture(scope="module")
def readings(pairs, tokenizer):
    rows = concatenate_datasets(list(pairs.values()))
    return read_rows(rows, "teacher_response", tokenizer)


@pytest.fixture(scope="module")
def model(teacher):
    return teacher.model


@pytest.fixture(scope="module")
def vocab_size(model) -> int:
    return model.config.vocab_size - 8  # as of a student with fewer


def settings_of(tokenizer, vocab_size, k=K, temperatures=TEMPERATURES):
    return make_settings(
        fingerprint_model(TEACHER), "model in float32", tokenizer, vocab_size, k, temperatures
    )


class CountingScorer:
    """The lab's teacher, which stops dead after so many calls."""

    def __init__(self, settings, most_calls: int = 10**9) -> None:
        self.scorer = TopKScorer(
            LiveTeacher.from_pretrained(TEACHER, dtype="float32"),
            settings["vocab_size"],
            settings["k"],
            settings["temperatures"],
        )
        self.most_calls, self.rows = most_calls, 0

    def score(self, readings):
        if self.most_calls == 0:
            raise ConnectionError("the card fell out")
        self.most_calls -= 1
        self.rows += len(readings)
        return self.scorer.score(readings)


def test_the_table_holds_what_the_teacher_thinks(readings, tokenizer, model, vocab_size, tmp_path):
    """Every kept id, its log-probability, and the mass of the rest at each temperature, against the plain softmax."""
    settings = settings_of(tokenizer, vocab_size)
    made = cache_soft_targets(
        readings, tmp_path / "table", settings, lambda: CountingScorer(settings), 5
    )
    table = load_from_disk(str(tmp_path / "table"))
    assert table["id"] == [reading.id for reading in readings]
    assert made["bytes_per_kept_id"] <= 6
    assert 0 < made["kept_mass"][2.0] < made["kept_mass"][1.0] <= 1
    for reading, row in list(zip(readings, table, strict=True))[::17]:
        ids = torch.tensor([reading.prompt_ids + reading.response_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(reading.prompt_ids) - 1 : -1, :vocab_size]
        tokens = len(reading.response_ids)
        kept = np.array(row["ids_low"]).astype(int) + 65536 * np.array(row["ids_high"]).astype(int)
        kept = torch.from_numpy(kept).reshape(tokens, K)
        log_probs = logits.double().log_softmax(-1)
        assert torch.equal(kept, log_probs.topk(K).indices)
        stored = torch.tensor(row["log_probs"]).reshape(tokens, K).double()
        exact = log_probs.gather(1, kept)
        # float32 logits of this size are a few 1e-6 apart, so that no log-probability is nearer to the exact one.
        spacing = float(torch.finfo(torch.float32).eps * logits.abs().max())
        assert torch.allclose(stored, exact, rtol=1e-3, atol=2 * spacing)
        tails = torch.tensor(row["log_tails"]).reshape(tokens, 2).double()
        for column, temperature in enumerate(TEMPERATURES):
            p = (logits.double() / temperature).softmax(-1)
            rest = p.scatter(1, kept, 0.0).sum(-1)
            assert torch.allclose(tails[:, column].exp(), rest, rtol=1e-4)


def test_equal_questions_are_read_once(readings, tokenizer, vocab_size, tmp_path):
    """Eight recordings of one question are eight rows and one thought."""
    settings = settings_of(tokenizer, vocab_size)
    scorer = CountingScorer(settings)
    cache_soft_targets(readings, tmp_path / "table", settings, lambda: scorer, 5)
    assert scorer.rows == len({(tuple(r.prompt_ids), tuple(r.response_ids)) for r in readings})
    assert scorer.rows < len(readings)


def test_what_was_scored_before_a_crash_is_never_scored_again(
    readings, tokenizer, vocab_size, tmp_path
):
    """A night of a 7B teacher; and the table must be the one that an undisturbed run writes."""
    settings = settings_of(tokenizer, vocab_size)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first, second = CountingScorer(settings, most_calls=3), CountingScorer(settings)
    cache_soft_targets(readings, whole, settings, lambda: CountingScorer(settings), 4)
    with pytest.raises(ConnectionError):
        cache_soft_targets(readings, parts, settings, lambda: first, 4)
    assert not parts.exists()
    made = cache_soft_targets(readings, parts, settings, lambda: second, 4)
    assert first.rows == 12
    assert made["scored"] == second.rows
    assert first.rows + second.rows == len({(*r.prompt_ids, *r.response_ids) for r in readings})
    assert load_from_disk(str(parts))[:] == load_from_disk(str(whole))[:]
    again = cache_soft_targets(readings, parts, settings, lambda: pytest.fail("loaded"), 4)
    assert again["scored"] == 0


def test_new_rows_join_a_table_and_other_settings_do_not_replace_it(
    readings, tokenizer, vocab_size, tmp_path
):
    """A longer data set pays for its new rows alone; a mistyped k does not cost the table."""
    settings = settings_of(tokenizer, vocab_size)
    folder = tmp_path / "table"
    cache_soft_targets(readings[:20], folder, settings, lambda: CountingScorer(settings), 4)
    scorer = CountingScorer(settings)
    cache_soft_targets(readings, folder, settings, lambda: scorer, 4)
    assert len(load_from_disk(str(folder))) == len(readings)
    assert 0 < scorer.rows < len({(*r.prompt_ids, *r.response_ids) for r in readings})
    other = settings_of(tokenizer, vocab_size, k=8)
    with pytest.raises(ValueError, match="soft targets with k 16, and this run wants 8"):
        cache_soft_targets(readings, folder, other, lambda: pytest.fail("loaded"), 4)


def test_a_changed_question_makes_a_new_table(readings, tokenizer, vocab_size, tmp_path):
    """Ids and answers stay, the system prompt changes: what the teacher thought of the old one is no longer true."""
    settings, folder = settings_of(tokenizer, vocab_size), tmp_path / "table"
    cache_soft_targets(readings[:4], folder, settings, lambda: CountingScorer(settings), 4)
    before = load_from_disk(str(folder))[0]
    changed = [dataclasses.replace(r, prompt_ids=r.prompt_ids[1:]) for r in readings[:4]]
    cache_soft_targets(changed, folder, settings, lambda: CountingScorer(settings), 4)
    after = load_from_disk(str(folder))[0]
    assert after["id"] == before["id"]
    assert after["log_probs"] != before["log_probs"]


def test_what_a_kill_left_half_written_is_cleared_away(readings, tokenizer, vocab_size, tmp_path):
    """Gigabytes of it, and in a container the next process may have the same number."""
    settings = settings_of(tokenizer, vocab_size)
    (tmp_path / "table.1.partial").mkdir()
    scorer = CountingScorer(settings)
    cache_soft_targets(readings[:4], tmp_path / "table", settings, lambda: scorer, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table", "table.journal"]


def test_no_answers_and_too_large_a_k_are_said_before_the_teacher_is_loaded(pairs, tokenizer):
    """A night later the run would refuse the table."""
    empty = pairs["train"].map(lambda row: {"gold_response": None})
    with pytest.raises(ValueError, match="no row of the data set has a gold_response"):
        read_rows(empty, "gold_response", tokenizer)
    with pytest.raises(ValueError, match="share 100 vocabulary rows"):
        settings_of(tokenizer, 100, k=101)


def test_a_server_gives_what_the_model_in_memory_gives(readings, teacher, model):
    """vLLM's answer, over real HTTP: ranks, an actual token beyond the k, string ids, the first token without one."""
    some = readings[:12]
    with LogprobHttpServer(model, "lab-teacher", max_logprobs=K) as server:
        answer = ServerScorer(server.url, "lab-teacher", model.config.vocab_size, K).score(some)
    scorer = TopKScorer(teacher, model.config.vocab_size, K, [1.0])
    for ours, theirs in zip(scorer.score(some), answer, strict=True):
        assert np.array_equal(ours.ids, theirs.ids)
        assert np.allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
        assert np.allclose(np.exp(ours.log_tails), np.exp(theirs.log_tails), atol=1e-5)


def test_a_server_that_cannot_serve_the_run_says_so(readings, model):
    """vLLM tells 20 log-probabilities unless started otherwise, and its model has another name than the path."""
    with LogprobHttpServer(model, "lab-teacher", max_logprobs=4) as server:
        with pytest.raises(ValueError, match="serves lab-teacher, not other"):
            ServerScorer(server.url, "other", 100, K)
        with pytest.raises(ValueError, match="--max-logprobs 16"):
            ServerScorer(server.url, "lab-teacher", model.config.vocab_size, K).score(readings[:1])
        with pytest.raises(ValueError, match="which the student does not have"):
            ServerScorer(server.url, "lab-teacher", 3, 4).score(readings[:1])


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    """Prevents: a traceback of the HTTP client for a server that was not started."""
    monkeypatch.setattr("data_builders.clients.openai.RETRIES", 0)
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        ServerScorer("http://127.0.0.1:9/v1", "lab-teacher", 100, K)


def test_a_server_serves_temperature_one_alone():
    """Its log-probabilities do not tell the mass of the rest at another temperature."""
    with pytest.raises(ValueError, match="temperature 1 and do not tell"):
        SoftTargetArguments(teacher_base_url="http://localhost:8000/v1")
