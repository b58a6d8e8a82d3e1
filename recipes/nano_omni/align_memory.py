"""The memory of the CTC training: weights, Adam's states, and the activations of the longest clips in one batch."""

from align import Aligner
from torch import nn
from tower_states import StatesOnDisk

from trainer_ext.memory.callback import measure_now
from trainer_ext.memory.plan import CUDA_CONTEXT

FLOAT = 4
# What a layer's backward reads: inputs of norms and residuals, query, key, value, attention's output and projection, in
# widths of the layer; and before and after the GELU, in widths of the feed-forward.
KEPT_WIDTHS, KEPT_FEED_FORWARDS = 9, 2
# Copies of the logits (T, 1 + C) at the peak: scaled, log-softmax, padded, gradients of the CTC and of the softmax.
LOGITS = 5


def plan_align(aligner: Aligner, clips: StatesOnDisk, batch_size: int, model: nn.Module) -> dict[str, int]:
    """Return the bytes at the peak of the device by purpose, if the longest clips meet in one batch.

    Args:
        model: the thinker; on a GPU only its tower is there.
    """
    frames = sum(sorted(clips.frames)[-batch_size:])
    width = aligner.ln_post.weight.shape[0]
    feed_forward = aligner.layers[0].fc1.out_features if aligner.layers else 0
    trained = sum(parameter.numel() for parameter in aligner.parameters() if parameter.requires_grad) * FLOAT
    device = aligner.proj.weight.device
    weights = sum(parameter.nbytes for parameter in model.parameters() if parameter.device == device)
    rest = {"context": CUDA_CONTEXT} if device.type == "cuda" else {"process": max(measure_now() - weights, 0)}
    layers = len(aligner.layers) * frames * (KEPT_WIDTHS * width + KEPT_FEED_FORWARDS * feed_forward)
    logits = LOGITS * (frames // 2 * (1 + len(aligner.embeddings)) + frames * aligner.letters[1].out_features)
    return {
        "weights": weights,
        "gradients": trained,
        "optimizer states": 2 * trained,
        "activations": FLOAT * layers,
        "logits": FLOAT * logits,
        **rest,
    }
