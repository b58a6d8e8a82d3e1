"""Cross-modal distillation in one flat loop, without a Trainer: the file to read first, and to copy.

    questions.jsonl -> pairs -> collate -> teacher targets -> student forward + loss -> AdamW

    python recipes/flat_loop.py                     # the tiny lab on a CPU: 100 steps in under a minute

`recipes/s2t_t2t.py` does the same with TRL's trainer: scores, checkpoints, several processes, cards, the Hub.
"""

import random
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from data_builders.arguments import DataArguments
from data_builders.causal_lm import TeacherSettings
from data_builders.pairs import load_pairs
from trainer_ext.collator import PairCollator
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import TokenGroup
from trainer_ext.pair_batch import PairBatch
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.distill_forward import DistillRequest, install_distill_forward
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher

LAB = Path(__file__).parent / "tiny_lab"
STUDENT, TEACHER, QUESTIONS = (str(LAB / name) for name in ("student", "teacher", "questions.jsonl"))
STEPS, QUESTIONS_PER_STEP, LEARNING_RATE, SEED = 100, 8, 2e-3, 0


def training_loss(student, teacher, objective: Objective, inputs: dict) -> torch.Tensor:
    """Return the mean loss over the response tokens of a collated batch, a scalar with a gradient."""
    batch = PairBatch.split(inputs)
    # The teacher reads each question once, as text; text and spoken rows of a question share its hidden states.
    targets = teacher.targets(batch.teacher_inputs, batch.teacher_index())
    # CE and divergence are computed inside the student's forward, chunk by chunk, without (tokens, vocabulary) logits.
    request = DistillRequest(batch.labels, [TokenGroup(None, targets)], objective)
    output = student(**batch.model_inputs, distill=request)
    assert request.parts is not None
    return output.total / len(request.parts.ce)


def load() -> tuple:
    """Return student with LoRA, teacher, collator and training rows."""
    family = load_student_family(STUDENT)
    student = family.load_model(STUDENT, dtype="float32")
    install_distill_forward(student, family.packed_inputs)
    lora = LoraConfig(r=64, lora_alpha=128, target_modules=family.lora_target_modules)
    student = get_peft_model(student, lora)
    teacher = LiveTeacher.from_pretrained(TEACHER, dtype="float32")
    pairs = load_pairs(
        DataArguments(questions=QUESTIONS, answer_max_new_tokens=24), TeacherSettings(TEACHER, dtype="float32")
    )
    return student, teacher, PairCollator(family, teacher.encoder), pairs["train"]


def main() -> None:
    torch.manual_seed(SEED)
    keep_libraries_quiet()
    student, teacher, collate, rows = load()
    objective = Objective(kl_weight=0.5, temperature=2.0)  # the paper's lambda and tau
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    generator = random.Random(SEED)
    student.train()
    for step in range(1, STEPS + 1):
        batch = collate([rows[i] for i in generator.sample(range(len(rows)), QUESTIONS_PER_STEP)])
        loss = training_loss(student, teacher, objective, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step:>4}  loss {loss.item():.3f}")
    student.save_pretrained("outputs/flat_loop")


if __name__ == "__main__":
    main()
