"""Tests with the real tokenizers of Qwen2.5-Omni and Qwen2.5-7B-Instruct: 10,000 rows of control tokens as text."""

import importlib.util
import io
import unicodedata

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from transformers import AutoTokenizer

from data_builders.chat import make_messages
from data_builders.chat_encoder import ChatEncoder
from data_builders.soft_targets.cache import read_inputs
from tests.support.lab import ROOT
from tests.support.real import find_real
from tests.support.written_text import write_control_texts, write_texts
from trainer_ext.collator import PairCollator
from trainer_ext.evaluation.generation import encode_prompts
from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent
from trainer_ext.teachers.prompts import TeacherPromptEncoder

pytestmark = pytest.mark.real
FIRST_ADDED = 151_643  # in both vocabularies; all ids below are learned
ROWS = 10_000
SAMPLES = 1_600


@pytest.fixture(scope="module")
def teacher():
    return AutoTokenizer.from_pretrained(find_real("tokenizers/qwen2.5-7b-instruct-tok"))


@pytest.fixture(scope="module")
def student():
    return Qwen2_5OmniStudent.from_pretrained(str(find_real("tokenizers/qwen2.5-omni-tok")))


@pytest.fixture(scope="module")
def rows(teacher, student):
    """Rows with control tokens of both vocabularies in question, system prompt and answer, and a silent clip."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(SAMPLES, dtype=np.float32), 16_000, format="FLAC")
    clip = {"bytes": buffer.getvalue(), "path": None}
    names = {t.content for tok in (teacher, student.tokenizer) for t in tok.added_tokens_decoder.values()}
    columns = [list(write_control_texts(sorted(names), ROWS, seed)) for seed in range(3)]
    return [
        dict(
            id=str(number), question=question, system=columns[1][-1 - number], teacher_response=columns[2][number],
            channels=["t2t", "s2t"], speech=clip, speech_seconds=SAMPLES / 16_000,
        )
        for number, question in enumerate(columns[0])
    ]  # fmt: skip


def drop_added(ids):
    return [i for i in ids if i < FIRST_ADDED]


def keep_added(ids):
    return [i for i in ids if i >= FIRST_ADDED]


def test_no_row_gives_a_control_token_and_all_readers_read_the_same(teacher, student, rows):
    """Prevents: a row that steers a turn, hears a clip that is not there, or is read differently by the two models."""
    im_start, im_end, audio, bos, eos = 151_644, 151_645, 151_646, 151_647, 151_648
    text_frame = [im_start, im_end, im_start, im_end, im_start]
    chat = ChatEncoder(teacher)
    cached = read_inputs(Dataset.from_list(rows), "teacher_response", teacher)
    heard = student.count_audio_tokens(SAMPLES)
    for row, stored in zip(rows, cached, strict=True):
        question, system, answer = row["question"], row["system"], row["teacher_response"]
        ours, theirs = student.encode_text_prompt(question, system), chat.encode_prompt(question, system)
        assert ours == theirs == stored.prompt_ids
        assert keep_added(ours) == text_frame
        written = f"system\n{system}\nuser\n{question}\nassistant\n"
        assert teacher.decode(drop_added(ours)) == unicodedata.normalize("NFC", written)
        spoken = student.encode_speech_prompt(SAMPLES, system)
        assert keep_added(spoken) == [im_start, im_end, im_start, bos, *[audio] * heard, eos, im_end, im_start]
        response = student.encode_response(answer)
        assert response == chat.encode_response(answer) == stored.response_ids
        assert keep_added(response) == [im_end]
        assert teacher.decode(response[:-1]) == unicodedata.normalize("NFC", answer)


def test_batches_ask_and_evaluation_use_the_same_ids(teacher, student, rows):
    """Prevents: a second way to encode a question, in the collator, in the evaluation or in `ask.py`."""
    encoder = TeacherPromptEncoder(teacher)
    collator = PairCollator(student, encoder)
    spec = importlib.util.spec_from_file_location("ask", ROOT / "recipes" / "ask.py")
    ask = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ask)
    audio, heard = student.config.audio_token_id, student.count_audio_tokens(SAMPLES)
    for start in range(0, ROWS, 250):
        batch = rows[start : start + 8]
        for row in batch:
            encoder.check_row(row, row["teacher_response"], student.encode_response(row["teacher_response"]))
        collated = collator(batch)
        written, spoken = collated["input_ids"].split(len(batch))
        assert (spoken == audio).sum(dim=1).tolist() == [heard] * len(batch)
        assert not (written == audio).any()
        for number, row in enumerate(batch):
            prompt = student.encode_text_prompt(row["question"], row["system"])
            assert written[number, : len(prompt)].tolist() == prompt
            assert collated["teacher_input_ids"][number, : len(prompt)].tolist() == prompt
            evaluated = encode_prompts(student, [row], "t2t")["input_ids"][0].tolist()
            arguments = ask.AskArguments(question=row["question"], system=row["system"], model_name_or_path="x")
            assert evaluated == prompt == ask.encode(student, arguments)["input_ids"][0].tolist()


def test_ordinary_text_has_the_ids_of_the_official_templates(teacher, student):
    """Prevents: prompts that neither model was trained on."""
    chat = ChatEncoder(teacher)
    texts = list(write_texts(5_000, seed=7))
    for question, system in zip(texts, reversed(texts), strict=True):
        for encode, tokenizer in ((chat.encode_prompt, teacher), (student.encode_text_prompt, student.tokenizer)):
            official = tokenizer.apply_chat_template(
                make_messages(question, system), add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
            assert encode(question, system) == official
        assert chat.encode_response(question)[:-1] == teacher.encode(question, add_special_tokens=False)
