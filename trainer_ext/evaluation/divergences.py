"""Forgetting and misalignment of a student on rows of the data contract, question by question."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from trainer_ext.collator import PairCollator
from trainer_ext.evaluation.generation import move_inputs
from trainer_ext.judge_free import JudgeFreeMeter, split_sums
from trainer_ext.loss.alignment import response_rows
from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.pair_batch import PairBatch
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.distill_forward import HiddenStatesRequest
from trainer_ext.teachers.base import Teacher


class Rows(Protocol):
    """Rows of the data contract, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


WITH_STATES = ("model", "self")  # kinds of teacher whose whole distribution is there


@torch.no_grad()
def measure_divergences(
    model: PreTrainedModel, family: StudentFamily, rows: Rows, teacher: Teacher | None, batch_size: int = 16
) -> dict[str, Tensor]:
    """Return sum and tokens of each divergence, (2, rows), over the tokens of the teacher's answers.

    Rows that cannot be encoded (a clip that is too long, ...) have no tokens. Processes share the rows.

    Args:
        model: with `install_distill_forward`, or its PEFT wrapper.
        teacher: attached; one without hidden states, or None, leaves forgetting out.
    """
    if teacher is not None and teacher.kind not in WITH_STATES:
        teacher = None
    model.eval()
    collator = PairCollator(family, None if teacher is None else teacher.encoder)
    head = model.get_output_embeddings().weight
    meter = JudgeFreeMeter(head.device)
    state = PartialState()
    found: list[tuple[int, list[float]]] = []
    ours = list(range(len(rows)))[state.process_index :: state.num_processes]
    for positions, inputs in collate(collator, rows, ours, batch_size):
        batch = PairBatch.split(move_batch(inputs, model))
        targets = None if teacher is None else teacher.targets(batch.teacher_inputs, batch.teacher_index())
        request = HiddenStatesRequest(batch.labels)
        hidden_states = model(**batch.model_inputs, distill=request).hidden_states
        live = targets if isinstance(targets, LiveTargets) else None
        sums = meter.sum_by_question(batch, response_rows(batch.labels), hidden_states, head, live)
        found += zip(positions, sums.tolist(), strict=True)
    everything = torch.zeros(len(rows), 4, dtype=torch.float64)
    for position, values in gather_object(found):
        everything[position] = torch.tensor(values, dtype=torch.float64)
    return split_sums(everything)


def collate(
    collator: PairCollator, rows: Rows, positions: list[int], batch_size: int
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Yield batches of the rows that can be encoded, in both channels, with their positions."""
    hidden = not PartialState().is_main_process
    starts = range(0, len(positions), batch_size)
    for start in tqdm(starts, desc="forgetting and misalignment", unit="batch", disable=hidden):
        batch = {i: {**rows[i], "channels": ["t2t", "s2t"]} for i in positions[start : start + batch_size]}
        try:
            yield list(batch), collator(list(batch.values()))
        except ValueError:
            usable = {i: row for i, row in batch.items() if can_encode(collator, row)}
            if usable:
                yield list(usable), collator(list(usable.values()))


def can_encode(collator: PairCollator, row: dict[str, Any]) -> bool:
    """Tell whether a row can be encoded."""
    try:
        collator([row])
    except ValueError:
        return False
    return True


def move_batch(inputs: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Move the tensors of a batch to the model's device, features in its precision."""
    tensors = {key: value for key, value in inputs.items() if isinstance(value, Tensor)}
    return {**inputs, **move_inputs(tensors, model)}
