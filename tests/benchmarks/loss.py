"""Extra memory and time of CE + KL from hidden states: ours, the libraries', and the matrix products alone.

    pip install liger-kernel                     # on a CPU: pip install --no-deps liger-kernel triton
    python tests/benchmarks/loss.py              # N = 1,024, head frozen, three rounds: 15 minutes on two cores
    python tests/benchmarks/loss.py --tokens 4096 --head trained --rounds 1
    python tests/benchmarks/loss.py --device cuda --tokens 1024 4096 16384

The contestants of a round run one after the other. On a CPU every figure comes from a fresh process, without warm-up;
on a GPU from one process and after a warm-up, because its allocator counts the memory of each. Times are of one forward
and backward; memory is what they need above heads and inputs. The table is printed with ratios, and all figures are
written to outputs/benchmarks/loss.json.
"""

import argparse
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCAB_SIZE = 151_936
KL_WEIGHT, TEMPERATURE = 0.5, 2.0
KEPT = 128
RESULTS = Path("outputs/benchmarks/loss.json")


def run_floor(x: dict[str, Any]) -> None:
    """Run the matrix products alone: student's logits, their gradient, teacher's logits; one buffer."""
    import torch

    logits = torch.mm(x["states"].detach(), x["head"].detach().T)
    x["states"].grad = torch.mm(logits, x["head"].detach())
    if x["head"].requires_grad:
        x["head"].grad = torch.mm(logits.T, x["states"].detach())
    torch.mm(x["teacher_states"], x["teacher_head"].T, out=logits)


def naive_loss(x: dict[str, Any]) -> Any:
    """Return CE + KL of full logits, as textbooks write it."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

    logits = (x["states"] @ x["head"].T).float()
    with torch.no_grad():
        teacher_logits = (x["teacher_states"] @ x["teacher_head"].T).float()
    kl = kl_div(
        log_softmax(logits / TEMPERATURE, -1),
        softmax(teacher_logits / TEMPERATURE, -1),
        reduction="batchmean",
    )
    return cross_entropy(logits, x["labels"]) + KL_WEIGHT * TEMPERATURE**2 * kl


@functools.cache
def compile_naive_loss() -> Callable[[dict[str, Any]], Any]:
    import torch

    return torch.compile(naive_loss)


def run_naive(x: dict[str, Any]) -> None:
    naive_loss(x).backward()


def run_naive_compiled(x: dict[str, Any]) -> None:
    compile_naive_loss()(x).backward()


def run_trl_gkd(x: dict[str, Any]) -> None:
    import torch
    from torch.nn.functional import cross_entropy
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    logits = x["states"] @ x["head"].T
    with torch.no_grad():
        teacher_logits = x["teacher_states"] @ x["teacher_head"].T
    kl = GKDTrainer.generalized_jsd_loss(
        logits[None],
        teacher_logits[None],
        labels=x["labels"][None],
        beta=0,
        temperature=TEMPERATURE,
    )
    ce = cross_entropy(logits.float(), x["labels"])
    (ce + KL_WEIGHT * TEMPERATURE**2 * kl).backward()


def run_trl_tiled(x: dict[str, Any]) -> None:
    """Run TRL's two tiled kernels: divergence, and the fused head's log-probabilities."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    kl, _ = ChunkedDivergenceFunction.apply(
        x["states"], x["head"], None, x["teacher_states"], x["teacher_head"], None, 0.0, TEMPERATURE
    )
    log_probs = ChunkedLogProbFunction.apply(x["states"], x["head"], None, x["labels"], 1.0, 32768, None, 1.0, ())[0]
    (-log_probs.mean() + KL_WEIGHT * TEMPERATURE**2 * kl.mean()).backward()


def run_liger(x: dict[str, Any]) -> None:
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=1.0,
        weight_soft_loss=KL_WEIGHT * TEMPERATURE**2,
        beta=0.0,
        temperature=TEMPERATURE,
        compiled=x["states"].is_cuda,  # its own default where a GPU's compiler is at hand
        chunk_size=128 if not x["states"].is_cuda else 1024,
    )
    loss(x["states"], x["head"], x["teacher_states"], x["teacher_head"], x["labels"]).backward()


def run_ours(x: dict[str, Any]) -> None:
    import torch

    from trainer_ext.loss.distillation import distillation_loss
    from trainer_ext.loss.teacher_targets import LiveTargets

    rows = torch.arange(len(x["labels"]), device=x["labels"].device)
    signal = LiveTargets(rows, x["teacher_states"], x["teacher_head"])
    distillation_loss(x["states"], x["head"], x["labels"], signal).total.backward()


def run_ours_plain(x: dict[str, Any]) -> None:
    """Run ours in plain torch, without the kernels of a GPU."""
    from unittest.mock import patch

    with patch("trainer_ext.loss.distillation.uses_triton", lambda device_type, divergence: False):
        run_ours(x)


def run_ours_stored(x: dict[str, Any]) -> None:
    import torch

    from trainer_ext.loss.distillation import distillation_loss
    from trainer_ext.loss.teacher_targets import StoredTargets

    rows = torch.arange(len(x["labels"]), device=x["labels"].device)
    signal = StoredTargets(rows, x["ids"], x["log_probs"], x["log_tail"], len(x["head"]))
    distillation_loss(x["states"], x["head"], x["labels"], signal).total.backward()


def run_two_calls(x: dict[str, Any]) -> None:
    """Run the channels of N / 2 question tokens in two calls."""
    import torch

    from trainer_ext.loss.distillation import distillation_loss
    from trainer_ext.loss.teacher_targets import LiveTargets

    half = len(x["labels"]) // 2
    rows = torch.arange(half, device=x["labels"].device)
    for part in (slice(0, half), slice(half, 2 * half)):
        signal = LiveTargets(rows, x["teacher_states"][:half], x["teacher_head"])
        distillation_loss(x["states"][part], x["head"], x["labels"][part], signal).total.backward()


def run_paired(x: dict[str, Any]) -> None:
    """Run both channels in one call with shared teacher tokens."""
    import torch

    from trainer_ext.loss.distillation import distillation_loss
    from trainer_ext.loss.teacher_targets import LiveTargets

    half = len(x["labels"]) // 2
    rows = torch.arange(half, device=x["labels"].device).repeat(2)
    signal = LiveTargets(rows, x["teacher_states"][:half], x["teacher_head"])
    distillation_loss(x["states"], x["head"], x["labels"], signal).total.backward()


CONTESTANTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "floor": run_floor,
    "naive": run_naive,
    "naive_compiled": run_naive_compiled,
    "trl_gkd": run_trl_gkd,
    "trl_tiled": run_trl_tiled,
    "liger": run_liger,
    "ours": run_ours,
    "ours_plain": run_ours_plain,
    "ours_stored": run_ours_stored,
    "two_calls": run_two_calls,
    "paired": run_paired,
}
ON_GPU_ALONE = {"naive_compiled", "ours_plain"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024])
    parser.add_argument("--head", nargs="+", default=["frozen"], choices=["frozen", "trained"])
    parser.add_argument("--student_hidden", type=int, nargs="+", default=[2048])
    parser.add_argument("--teacher_hidden", type=int, default=3584)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS))
    parser.add_argument("--memory_gib", type=float, default=20.0, help="limit of one process")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one measurement, in this process
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.tokens, arguments.student_hidden, arguments.teacher_hidden = [16], [8], 12
        arguments.rounds, arguments.only = 1, ["floor", "naive", "ours"]
    on_gpu = arguments.device == "cuda"
    only = arguments.only or [name for name in CONTESTANTS if on_gpu or name not in ON_GPU_ALONE]
    run_case = measure if on_gpu else measure_in_fresh_process
    if arguments.case:
        print("RESULT " + json.dumps(measure(json.loads(arguments.case))))
        return
    measured = []
    for hidden in arguments.student_hidden:
        for tokens in arguments.tokens:
            for head in arguments.head:
                shape = {
                    "tokens": tokens,
                    "student_hidden": hidden,
                    "teacher_hidden": arguments.teacher_hidden,
                    "head": head,
                    "device": arguments.device,
                    "memory_gib": arguments.memory_gib,
                    "vocab_size": 500 if arguments.smoke else VOCAB_SIZE,
                }
                cases = [
                    run_case({**shape, "contestant": name, "round": number})
                    for number in range(arguments.rounds)
                    for name in only
                ]
                print(make_table(shape, cases), flush=True)
                measured += cases
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(measured, indent=1))


def measure_in_fresh_process(case: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    return {
        **case,
        "error": done.stderr.strip().splitlines()[-1][:200] if done.stderr else "killed",
    }


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Measure time and extra memory of one implementation in this process, which on a CPU must be fresh."""
    import torch

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    run, on_gpu = CONTESTANTS[case["contestant"]], case["device"] == "cuda"
    if not on_gpu:  # imports and thread pools of a first call are paid for on inputs of a few rows
        run(make_inputs({**case, "tokens": 4}, vocab_size=1000))
    else:
        torch.cuda.empty_cache()  # one contestant's blocks are none that the next can reuse
    inputs = make_inputs(case, case["vocab_size"])
    try:
        if on_gpu:
            run(inputs)  # compiles and chooses kernels
            inputs["states"].grad = inputs["head"].grad = None
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            limit_memory(case["memory_gib"])
        before = measure_memory(on_gpu, reset=True)
        started, cpu_started = time.perf_counter(), time.process_time()
        run(inputs)
        if on_gpu:
            torch.cuda.synchronize()
    except (RuntimeError, MemoryError) as error:
        return {**case, "error": str(error).splitlines()[0][:200]}
    return {
        **case,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "extra_gib": (measure_memory(on_gpu) - before) / 2**30,
        "gradient_norm": inputs["states"].grad.norm().item(),
    }


def make_inputs(case: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return states, heads and labels of the case's shape, filled in place to leave no memory peak."""
    import torch

    gpu = case["device"] == "cuda"
    options: dict[str, Any] = {
        "device": case["device"],
        "dtype": torch.bfloat16 if gpu else torch.float32,
    }
    generator = torch.Generator(case["device"]).manual_seed(0)
    tokens, hidden, teacher_hidden = case["tokens"], case["student_hidden"], case["teacher_hidden"]
    x: dict[str, Any] = {
        "states": torch.empty(tokens, hidden, **options).normal_(generator=generator),
        "head": torch.empty(vocab_size, hidden, **options).normal_(0, 3 / math.sqrt(hidden), generator=generator),
        "labels": torch.randint(vocab_size, (tokens,), device=case["device"], generator=generator),
    }
    if case["contestant"] == "ours_stored":
        kept = min(KEPT, vocab_size // 2)
        spacing = vocab_size // kept  # one id out of every stretch of this many
        at = torch.randint(spacing, (tokens, kept), device=case["device"], generator=generator)
        x["ids"] = at + torch.arange(kept, device=case["device"]) * spacing
        scores = torch.randn(tokens, kept + 1, device=case["device"], generator=generator)
        log_p = (2 * scores).log_softmax(-1)
        x["log_probs"], x["log_tail"] = log_p[:, :-1].contiguous(), log_p[:, -1].contiguous()
    else:
        x["teacher_states"] = torch.empty(tokens, teacher_hidden, **options).normal_(generator=generator)
        x["teacher_head"] = torch.empty(vocab_size, teacher_hidden, **options).normal_(
            0, 3 / math.sqrt(teacher_hidden), generator=generator
        )
    x["states"].requires_grad_()
    x["head"].requires_grad_(case["head"] == "trained")
    return x


def limit_memory(gib: float) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30),) * 2)


def measure_memory(on_gpu: bool, reset: bool = False) -> int:
    """Return the bytes in use after a `reset` of the peak, else the peak since the reset."""
    if on_gpu:
        import torch

        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS" if reset else "VmHWM"].split()[0]) * 1024


def make_table(shape: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    """Return medians and ratios: memory to naive and to TRL's tiles, time to the matrix products alone."""
    medians = {}
    for name in dict.fromkeys(case["contestant"] for case in cases):
        good = [case for case in cases if case["contestant"] == name and "error" not in case]
        if good:
            medians[name] = {
                key: statistics.median(case[key] for case in good) for key in ("extra_gib", "seconds", "cpu_seconds")
            }
    lines = [
        f"\nN = {shape['tokens']:,}, hidden {shape['student_hidden']:,} and {shape['teacher_hidden']:,}, "
        f"head {shape['head']}, {shape['device']}",
        "",
        "| | extra memory, GiB | of naive | of TRL's tiles | seconds | of the products alone | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(case["contestant"] for case in cases):
        if name not in medians:
            error = next(case["error"] for case in cases if case["contestant"] == name)
            lines.append(f"| {name} | {error[:60]} | | | | | |")
            continue
        own = medians[name]
        ratios = {
            column: f"{own[key] / medians[other][key]:.2f}" if other in medians else ""
            for column, key, other in (
                ("naive", "extra_gib", "naive"),
                ("tiles", "extra_gib", "trl_tiled"),
                ("floor", "seconds", "floor"),
            )
        }
        lines.append(
            f"| {name} | {own['extra_gib']:.2f} | {ratios['naive']} | {ratios['tiles']} | {own['seconds']:.3g} | "
            f"{ratios['floor']} | {own['cpu_seconds']:.3g} |"
        )
    if {"paired", "two_calls"} <= set(medians):
        ratio = medians["paired"]["seconds"] / medians["two_calls"]["seconds"]
        lines.append(f"\nboth channels in one call take {ratio:.2f} of the time of two calls")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
