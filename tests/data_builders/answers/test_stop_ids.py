"""Tests of where an answer ends: at any of the published stop tokens."""

import json
import shutil

from data_builders.answers.base import Question
from data_builders.answers.local_model import LocalModel
from data_builders.answers.openai_server import OpenAIServer
from data_builders.causal_lm import TeacherSettings
from tests.support.lab import TEACHER
from tests.support.logprob_server import LogprobHttpServer

QUESTION = Question("What is two plus three?", "")


def publish_stop_ids(folder, ids):
    """Copy the lab's teacher with other stop ids in its generation config."""
    shutil.copytree(TEACHER, folder)
    file = folder / "generation_config.json"
    published = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**published, "eos_token_id": ids}))
    return str(folder)


def test_an_answer_ends_at_every_published_stop_token(tmp_path):
    """Prevents: "Five." 151643 "Human: ..." 151645 as one finished answer: Qwen2.5 publishes two stop tokens."""
    model = LocalModel(TeacherSettings(TEACHER), 24)
    ((_, (whole,)),) = model.generate([[QUESTION]])
    tokens = model.tokenizer.encode(whole.text)
    assert len(tokens) > 2
    stop = tokens[2]
    name = publish_stop_ids(tmp_path / "teacher", [model.tokenizer.eos_token_id, stop])
    ((_, (cut,)),) = LocalModel(TeacherSettings(name), 24).generate([[QUESTION]])
    assert cut.text == model.tokenizer.decode(tokens[: tokens.index(stop)]).strip()
    assert cut.finish_reason == "stop"


def test_a_server_of_vllm_is_told_stop_tokens_and_no_penalty(teacher, teacher_server, tmp_path):
    """Prevents: answers under the published repetition penalty, or past the second stop token, behind vLLM."""
    name = publish_stop_ids(tmp_path / "teacher", [2, 0])
    with LogprobHttpServer(teacher.model, name, owned_by="vllm") as vllm:
        server = OpenAIServer(vllm.url, name, "main", 24, 1)
    assert server.sampling == {"repetition_penalty": 1.0, "stop_token_ids": [2, 0]}
    # A server that would refuse unknown arguments gets none.
    plain = OpenAIServer(teacher_server.url, name, "main", 24, 1)
    assert plain.sampling == {}
