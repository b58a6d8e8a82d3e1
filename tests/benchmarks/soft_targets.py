"""Kept mass of a teacher's k likeliest ids, and the error of the gradient against that of all ids.

    python tests/benchmarks/soft_targets.py

Two teachers: the tiny lab's over its own answers, its student untouched; and a Zipf-shaped one of 151,936 rows, whose
student ranks the ids alike. The gradient is that of the divergence alone by the student's hidden states; "renormalized"
is the gradient without the tail bucket, with the kept ids renormalized to one.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from data_builders.questions.read import read_questions
from trainer_ext.loss.distillation import distillation_loss
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import StoredTargets
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher

LAB = Path(__file__).parents[2] / "recipes" / "tiny_lab"
KEPT = (16, 64, 128, 512)
TEMPERATURES = (1.0, 2.0)
QUESTIONS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    smoke = parser.parse_args().smoke
    print("| teacher | temperature | k | kept mass | gradient error | renormalized |")
    print("|---|---|---|---|---|---|")
    for name, states, head, teacher_logits in (
        read_lab(4 if smoke else QUESTIONS),
        make_zipf(rows=1000 if smoke else 151_936),
    ):
        for temperature in TEMPERATURES:
            exact = exact_gradient(states, head, teacher_logits, temperature)
            for k in KEPT:
                signal = keep(teacher_logits, k, temperature)
                mass = -torch.expm1(signal.log_tail).mean()
                ours = gradient_of_ours(states, head, signal, temperature)
                peers = exact_gradient(states, head, teacher_logits, temperature, signal.ids)
                errors = [(g - exact).norm() / exact.norm() for g in (ours, peers)]
                print(
                    f"| {name} | {temperature:g} | {k} | {mass:.4f} | {errors[0]:.3f} | {errors[1]:.2f} |",
                    flush=True,
                )


@torch.no_grad()
def read_lab(questions: int) -> tuple[str, Tensor, Tensor, Tensor]:
    """Return states of the untrained student and logits of the teacher at the tokens of the teacher's own answers."""
    family = load_student_family(str(LAB / "student"))
    student = family.load_model(str(LAB / "student"), dtype=torch.float32).eval()
    teacher = LiveTeacher.from_pretrained(str(LAB / "teacher"), dtype="float32")
    chat = teacher.encoder.chat
    states, logits = [], []
    for prompt in list(read_questions(str(LAB / "questions.jsonl")))[::10][:questions]:
        asked = torch.tensor([chat.encode_prompt(prompt["question"], "")])
        answer = teacher.model.generate(asked, max_new_tokens=24, do_sample=False)
        first = asked.shape[1] - 1
        logits.append(teacher.model(answer).logits[0, first:-1])
        response = answer[0, asked.shape[1] :].tolist()
        ours = torch.tensor([family.encode_text_prompt(prompt["question"], "") + response])
        hidden = student.base_model(input_ids=ours, use_cache=False).last_hidden_state[0]
        states.append(hidden[-len(response) - 1 : -1])
    head = student.get_output_embeddings().weight
    return "tiny lab", torch.cat(states), head.detach(), torch.cat(logits)[:, : len(head)]


def make_zipf(tokens: int = 64, hidden: int = 256, rows: int = 151_936):
    """Return a teacher whose probabilities are a power of their rank, ordered anew per token, and a noisy student."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(rows, hidden, generator=generator) / math.sqrt(hidden)
    states = torch.randn(tokens, hidden, generator=generator)
    order = (states @ head.T).argsort(dim=1, descending=True)
    ranks = torch.arange(1, rows + 1, dtype=torch.float32)
    exponents = 1.2 + 1.8 * torch.rand(tokens, 1, generator=generator)  # some tokens sure, some not
    logits = torch.empty(tokens, rows).scatter_(1, order, -exponents * ranks.log())
    return f"Zipf, {rows:,} rows", 8 * states, head, logits


def keep(logits: Tensor, k: int, temperature: float) -> StoredTargets:
    """Return the targets that a table stores of logits (N, V)."""
    log_probs, ids = logits.log_softmax(-1).topk(min(k, logits.shape[1]))
    log_p = (logits / temperature).log_softmax(-1)
    log_tail = log_p.scatter(1, ids, -torch.inf).logsumexp(-1)
    rows = torch.arange(len(logits))
    return StoredTargets(rows, ids, log_probs.half().float(), log_tail, logits.shape[1])


def gradient_of_ours(states: Tensor, head: Tensor, teacher: StoredTargets, temperature: float) -> Tensor:
    """Return the gradient of the divergence alone by the states, as a difference of two losses."""
    gradients = []
    for weight in (1.0, 0.0):
        ours = states.clone().requires_grad_()
        labels = torch.zeros(len(states), dtype=torch.long)
        objective = Objective(kl_weight=weight, temperature=temperature)
        distillation_loss(ours, head, labels, teacher, objective).total.backward()
        gradients.append(ours.grad)
    return gradients[0] - gradients[1]


def exact_gradient(
    states: Tensor,
    head: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the gradient of temperature^2 * KL over all ids, or renormalized over the kept `ids` (N, k) alone."""
    ours = states.clone().requires_grad_()
    logits = ours @ head.T
    if ids is not None:
        logits, teacher_logits = logits.gather(1, ids), teacher_logits.gather(1, ids)
    p = (teacher_logits / temperature).softmax(-1)
    (-(temperature**2) * (p * (logits / temperature).log_softmax(-1)).sum()).backward()
    return ours.grad


if __name__ == "__main__":
    main()
