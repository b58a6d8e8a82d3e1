"""Tests of soft targets from a model and from a server, of resume, and of refusals."""

import dataclasses

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets, load_from_disk
from transformers import AutoTokenizer

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.arguments import SoftTargetArguments
from data_builders.outcomes import ServerUnreachable
from data_builders.soft_targets.cache import cache_soft_targets, make_settings, read_inputs
from data_builders.soft_targets.openai_server import ServerScorer
from tests.support.lab import TEACHER
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
    return read_inputs(rows, "teacher_response", tokenizer)


@pytest.fixture(scope="module")
def model(teacher):
    return teacher.model


@pytest.fixture(scope="module")
def vocab_size(model) -> int:
    return model.config.vocab_size - 8  # as of a student with fewer


def settings_of(tokenizer, vocab_size, k=K, temperatures=TEMPERATURES):
    return make_settings(fingerprint_model(TEACHER), "model in float32", tokenizer, vocab_size, k, temperatures)


class CountingScorer:
    """The lab's teacher, which raises after a number of calls."""

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


def test_the_table_equals_the_softmax_of_the_teacher(readings, tokenizer, model, vocab_size, tmp_path):
    """Prevents: wrong ids, log-probabilities or tail mass at any temperature."""
    settings = settings_of(tokenizer, vocab_size)
    made = cache_soft_targets(readings, tmp_path / "table", settings, lambda: CountingScorer(settings), 5)
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


def test_equal_questions_are_scored_once(readings, tokenizer, vocab_size, tmp_path):
    """Prevents: scoring one question eight times because it was recorded eight times."""
    settings = settings_of(tokenizer, vocab_size)
    scorer = CountingScorer(settings)
    cache_soft_targets(readings, tmp_path / "table", settings, lambda: scorer, 5)
    assert scorer.rows == len({(tuple(r.prompt_ids), tuple(r.response_ids)) for r in readings})
    assert scorer.rows < len(readings)


def test_rows_scored_before_a_crash_are_not_scored_again(readings, tokenizer, vocab_size, tmp_path):
    """Prevents: losing a night of a 7B teacher, or a table unlike that of an uninterrupted run."""
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


def test_new_rows_are_appended_and_other_settings_are_refused(readings, tokenizer, vocab_size, tmp_path):
    """Prevents: scoring old rows again for a longer data set, or losing the table to a mistyped k."""
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
    """Prevents: reusing scores after the system prompt changed while ids and answers stayed."""
    settings, folder = settings_of(tokenizer, vocab_size), tmp_path / "table"
    cache_soft_targets(readings[:4], folder, settings, lambda: CountingScorer(settings), 4)
    before = load_from_disk(str(folder))[0]
    changed = [dataclasses.replace(r, prompt_ids=r.prompt_ids[1:]) for r in readings[:4]]
    cache_soft_targets(changed, folder, settings, lambda: CountingScorer(settings), 4)
    after = load_from_disk(str(folder))[0]
    assert after["id"] == before["id"]
    assert after["log_probs"] != before["log_probs"]


def test_partial_files_of_a_killed_run_are_deleted(readings, tokenizer, vocab_size, tmp_path):
    """Prevents: gigabytes of partial files; in a container the next process may have the same process id."""
    settings = settings_of(tokenizer, vocab_size)
    (tmp_path / "table.0123abcd.partial").mkdir()
    scorer = CountingScorer(settings)
    cache_soft_targets(readings[:4], tmp_path / "table", settings, lambda: scorer, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table", "table.cache"]


def test_missing_answers_and_too_large_a_k_are_refused_before_the_teacher_is_loaded(pairs, tokenizer):
    """Prevents: an error after a night of scoring."""
    empty = pairs["train"].map(lambda row: {"gold_response": None})
    with pytest.raises(ValueError, match="no row of the data set has a gold_response"):
        read_inputs(empty, "gold_response", tokenizer)
    with pytest.raises(ValueError, match="share 100 vocabulary rows"):
        settings_of(tokenizer, 100, k=101)


def test_a_server_gives_the_targets_of_the_model_in_memory(readings, teacher, model):
    """Prevents: misreading vLLM's response: ranks, an actual token beyond the k, string ids, a first token without
    values.
    """
    some = readings[:12]
    with LogprobHttpServer(model, "lab-teacher", max_logprobs=K) as server:
        answer = ServerScorer(server.url, "lab-teacher", model.config.vocab_size, K).score(some)
    scorer = TopKScorer(teacher, model.config.vocab_size, K, [1.0])
    for ours, theirs in zip(scorer.score(some), answer, strict=True):
        assert np.array_equal(ours.ids, theirs.ids)
        assert np.allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
        assert np.allclose(np.exp(ours.log_tails), np.exp(theirs.log_tails), atol=1e-5)


def test_a_server_with_other_limits_or_models_is_refused(readings, model):
    """Prevents: a traceback for a server with too few log-probabilities (vLLM: 20) or another model."""
    with LogprobHttpServer(model, "lab-teacher", max_logprobs=4) as server:
        with pytest.raises(ValueError, match="serves lab-teacher, not other"):
            ServerScorer(server.url, "other", 100, K)
        [refused] = ServerScorer(server.url, "lab-teacher", model.config.vocab_size, K).score(readings[:1])
        assert "--max-logprobs 16" in str(refused)
        [outside] = ServerScorer(server.url, "lab-teacher", 3, 4).score(readings[:1])
        assert "which the student does not have" in str(outside)


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    """Prevents: a traceback of the HTTP client for a server that was not started."""
    monkeypatch.setattr("data_builders.clients.openai.RETRIES", 0)
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        ServerScorer("http://127.0.0.1:9/v1", "lab-teacher", 100, K)


def test_a_server_is_refused_for_temperatures_other_than_one():
    """Prevents: wrong tail masses: a server's log-probabilities do not determine them at another temperature."""
    with pytest.raises(ValueError, match="temperature 1 and do not give"):
        SoftTargetArguments(teacher_base_url="http://localhost:8000/v1")
