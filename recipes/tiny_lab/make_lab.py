"""Train the tiny lab from random weights: questions, a text teacher, and a speech LLM with both gaps.

    world.py -> questions.jsonl
             -> tokenizer -> teacher (Qwen2, trained on the answers as text)
             -> audio tower (CTC on words, espeak-ng voices)
             -> student (Qwen2.5-Omni thinker: the teacher's weights and the tower, adapted to speech alone)

    python recipes/tiny_lab/make_lab.py            # writes beside itself; about 14 minutes on two cores

Percent of answers with every token right: teacher text 100.0, student text 56.5, student speech 20.7 (voices not used
in training). By the recipe's score, the last words of the answer on held-out questions: 100.0, 70.7, 32.9. The student
thus has both gaps of the paper: forgetting (29 points between teacher and student on text) and modality (38 points
between text and speech). Gold answers are correct but phrased in other styles than the teacher's.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from lab_models import STUDENT_TEMPLATE, TEACHER_TEMPLATE, make_student, make_teacher, make_tokenizer
from lab_speech import Clips, speak_world
from lab_training import adapt_to_speech, embed_words, score, train_teacher, train_tower
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import WhisperFeatureExtractor
from world import gold_response, hold_out, list_facts, sentence

from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent

SEED = 0
HELD_OUT_SHARE = 0.25
UNHEARD_VOICES = ("en-us+f4/165/50", "en-gb-x-rp+m3/165/45", "en-gb-x-gbclan+m5/160/50")


def write_questions(file: Path) -> list[dict]:
    facts = list_facts()
    held = hold_out(facts, HELD_OUT_SHARE, SEED)
    rows = [
        {
            "source": f"tiny_lab/{fact.family}",
            "question": fact.question,
            "gold_response": gold_response(fact),
            "reference": fact.reference,
            "split": "test" if fact.question in held else "train",
        }
        for fact in facts
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{**row, "answer": sentence(fact.answer)} for row, fact in zip(rows, facts, strict=True)]


def train_or_load(module: nn.Module, file: Path | None, train) -> None:
    """Load the module from `file` if it exists, else train and save it."""
    if file is not None and file.exists():
        module.load_state_dict(load_file(file))
        return
    train()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(module.state_dict(), file)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent)
    parser.add_argument("--teacher_steps", type=int, default=1000)
    parser.add_argument("--tower_steps", type=int, default=2600)
    parser.add_argument("--adaptation_steps", type=int, default=120)
    parser.add_argument("--repeat_share", type=float, default=0.9)
    parser.add_argument(
        "--stages",
        type=Path,
        help="folder that keeps the trained teacher and tower, to redo only the adaptation",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    stages: Path | None = arguments.stages

    rows = write_questions(arguments.output_dir / "questions.jsonl")
    tokenizer = make_tokenizer(rows)
    tokenizer.chat_template = STUDENT_TEMPLATE
    thinker = make_student(tokenizer)
    teacher = make_teacher(len(tokenizer))
    family = Qwen2_5OmniStudent(tokenizer, WhisperFeatureExtractor(feature_size=128, chunk_length=30), thinker.config)
    print(f"{len(rows)} questions, {len(tokenizer)} tokens")
    print(f"parameters: teacher {teacher.num_parameters():,}, student {thinker.num_parameters():,}")

    written = [(row, None) for row in rows]
    train_or_load(
        teacher,
        stages and stages / "teacher.safetensors",
        lambda: train_teacher(teacher, family, rows, random.Random(SEED), arguments.teacher_steps),
    )
    print(f"teacher: text {score(teacher, family, written):.1f}, {time.monotonic() - started:.0f} s")

    clips_of, salads = speak_world(rows, Clips(family), SEED)
    everything = [clip for recordings in clips_of.values() for clip in recordings] + salads
    vocabulary, vectors = embed_words(teacher, tokenizer, rows)
    torch.manual_seed(SEED)
    train_or_load(
        thinker.model.audio_tower,
        stages and stages / "tower.safetensors",
        lambda: train_tower(
            thinker, everything, vocabulary, vectors, random.Random(SEED), arguments.tower_steps, batch=32
        ),
    )
    print(f"tower: {time.monotonic() - started:.0f} s")

    thinker.model.audio_tower.requires_grad_(False)
    thinker.model.language_model.load_state_dict(teacher.model.state_dict())
    thinker.lm_head.load_state_dict(teacher.lm_head.state_dict())
    torch.manual_seed(SEED)
    adapt_to_speech(
        thinker, family, rows, clips_of, salads, random.Random(SEED),
        arguments.adaptation_steps, arguments.repeat_share,
    )  # fmt: skip
    clips = Clips(family)
    unheard = [(row, clips.speak(row["question"], UNHEARD_VOICES[i % 3])) for i, row in enumerate(rows)]
    text, speech = score(thinker, family, written), score(thinker, family, unheard)
    print(f"student: text {text:.1f}, speech {speech:.1f}, {time.monotonic() - started:.0f} s")

    for model in (thinker, teacher):  # they then stop under any server
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    thinker.bfloat16().save_pretrained(arguments.output_dir / "student")
    family.save_pretrained(str(arguments.output_dir / "student"))
    teacher.bfloat16().save_pretrained(arguments.output_dir / "teacher")
    tokenizer.chat_template = TEACHER_TEMPLATE
    tokenizer.save_pretrained(arguments.output_dir / "teacher")


if __name__ == "__main__":
    main()
