"""Tests of the Triton kernels against plain torch, interpreted on a CPU or run on a GPU, and compiled for GPUs."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from trainer_ext.loss.chunk_torch import TorchChunkLoss
from trainer_ext.loss.chunk_triton import TritonChunkLoss
from trainer_ext.loss.divergences import TRITON_CODES
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import LiveChunk, StoredChunk

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

COMPILE = """
import inspect, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from trainer_ext.loss import chunk_triton as kernels

numbers = {"stride": "i32", "columns": "i32", "shared": "i32", "scale": "fp32", "teacher_stride": "i32", "beta": "fp32",
           "teacher_rows": "*i64", "labels": "*i64", "gradient": "*bf16", "gradient_stride": "i32"}
for kernel, divergence in [(kernels._normalize_rows, 0), *((kernels._differentiate, d) for d in range(4))]:
    names = list(inspect.signature(kernel.fn).parameters)
    constants = {"BLOCK": kernels.BLOCK, "DIVERGENCE": divergence}
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in constants else numbers.get(name, "*fp32") for name in names}
    compiled = triton.compile(
        ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}),
        target=GPUTarget("cuda", int(sys.argv[1]), 32),
        options={"num_warps": kernels.WARPS},
    )
    assert compiled.asm["cubin"]
"""


def make_chunk(tokens: int, rows: int, shared: int, k: int | None, seed: int = 0):
    generator = torch.Generator(DEVICE).manual_seed(seed)

    def normal(*shape):
        return 3 * torch.randn(*shape, device=DEVICE, generator=generator)

    logits = normal(tokens, rows)
    labels = torch.randint(rows, (tokens,), device=DEVICE, generator=generator)
    labels[0] = logits[0].argmax()
    teacher = normal(tokens // 2 + 1, shared)
    if k is None:
        return logits, labels, LiveChunk(teacher, torch.arange(tokens, device=DEVICE) // 2)
    log_probs, ids = normal(tokens, shared).log_softmax(-1).topk(k)
    return logits, labels, StoredChunk(ids, log_probs, torch.full_like(log_probs[:, 0], -1.3), shared)


@pytest.mark.parametrize("divergence", sorted(TRITON_CODES))
@pytest.mark.parametrize(
    ("tokens", "rows", "shared", "k"),
    [
        (5, 70, 70, None),
        (6, 9000, 8200, None),
        (5, 70, 61, 7),
        (4, 9000, 9000, 64),
        (3, 40, 40, 40),
    ],
)
def test_a_kernel_equals_plain_torch(divergence, tokens, rows, shared, k):
    """Prevents: errors at a second block of columns, ids beyond the shared ones, shared teacher rows, or a tail."""
    objective = Objective(kl_weight=0.7, temperature=1.7, divergence=divergence, beta=0.3)
    logits, labels, target = make_chunk(tokens, rows, shared, k)
    expected = TorchChunkLoss(logits, objective)(logits, labels, target, plain := torch.empty_like(logits))
    seen = TritonChunkLoss(objective)(fused := logits.clone(), labels, target, fused)
    for ours, theirs in zip((fused, *seen), (plain, *expected), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), rtol=1e-4, atol=1e-5)


def test_a_kernel_without_a_teacher_is_cross_entropy():
    """Prevents: a weight of zero times an overflowed softmax."""
    logits, labels, _ = make_chunk(4, 300, 300, None)
    logits[1] *= 1e4
    expected = TorchChunkLoss(logits, Objective())(logits, labels, None, plain := torch.empty_like(logits))
    seen = TritonChunkLoss(Objective())(fused := logits.clone(), labels, None, fused)
    for ours, theirs in zip((fused, *seen), (plain, *expected), strict=True):
        assert torch.isfinite(ours).all()
        assert torch.allclose(ours.float(), theirs.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [None, 7])
def test_a_gradient_in_half_precision_keeps_its_digits(k):
    """Prevents: 0.999 rounded to 1 before the label's 1 is subtracted, so that a confident token teaches nothing."""
    logits, labels, target = make_chunk(6, 300, 280, k)
    logits.scatter_(1, labels[:, None], 14.0)
    objective = Objective(kl_weight=0.0)
    TorchChunkLoss(logits, objective)(logits, labels, target, exact := torch.empty_like(logits))
    half = torch.empty_like(logits, dtype=torch.bfloat16)
    TritonChunkLoss(objective)(logits, labels, target, half)
    assert torch.allclose(half.float(), exact, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    "capability", [89, pytest.param(80, marks=pytest.mark.slow), pytest.param(90, marks=pytest.mark.slow)]
)
def test_the_kernels_compile_for_a_gpu(capability):
    """Prevents: code that the interpreter runs and the compiler refuses, such as types that change in a loop."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", COMPILE, str(capability)], check=True, env=environment)
