"""Differences between a grafted thinker and the models that its weights are from."""

from pathlib import Path

import numpy as np
import torch
from thinker import load_thinker, run_layers
from transformers import WhisperModel

from data_builders.pretrained import WEIGHTS_ONLY, load_causal_lm_weights, load_config, load_tokenizer
from data_builders.schema import SPEECH_RATE_HZ
from trainer_ext.students.registry import load_student_family

QUESTIONS = ("What is the capital of France?", "Tell me about the word help.", "Why do people need water?")
WHISPER_SECONDS = 30
PUBLISHED_WINDOW = 100  # half of the frames that Qwen2.5-Omni's tower attends over


@torch.no_grad()
def compare_text(text_name: str, grafted: Path) -> float:
    """Return the largest difference of the logits of written questions; 0.0 means equal to the last bit."""
    tokenizer = load_tokenizer(text_name)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        for question in QUESTIONS
    ]
    text = load_causal_lm_weights(text_name, dtype="auto").eval()
    wanted = [text(ids).logits for ids in prompts]
    del text
    thinker = load_thinker(grafted)
    found = [thinker(ids).logits[..., : logits.shape[-1]] for ids, logits in zip(prompts, wanted, strict=True)]
    return max((a - b).abs().max().item() for a, b in zip(wanted, found, strict=True))


@torch.no_grad()
def compare_encoder(encoder_name: str, grafted: Path, clip: np.ndarray) -> dict[str, float]:
    """Return relative differences (RMS) between Whisper's last hidden states of a clip and the tower's, unpooled.

    Same input: padded to 30 s, as Whisper wants it. No padding: as the tower is run; Whisper attends to the silence
    behind a clip too. Chunks of 2 s: as the published tower attends. Nothing for an encoder that is no Whisper.
    """
    if load_config(encoder_name).model_type != "whisper":
        return {}
    whisper = WhisperModel.from_pretrained(encoder_name, **WEIGHTS_ONLY).encoder.float().eval()
    thinker = load_thinker(grafted)
    tower = thinker.model.audio_tower.float()
    frozen = whisper.config.encoder_layers
    family = load_student_family(str(grafted))
    padded = np.zeros(WHISPER_SECONDS * SPEECH_RATE_HZ, dtype=np.float32)
    padded[: len(clip)] = clip
    features = family.extract_features([padded])
    wanted = whisper(features["input_features"]).last_hidden_state[0]

    def differ(samples: np.ndarray) -> float:
        states, _ = run_layers(thinker, frozen, family.extract_features([samples]))
        found = tower.ln_post(states)
        frames = min(len(clip) * 50 // SPEECH_RATE_HZ, len(found))  # those of the clip
        error = (found[:frames] - wanted[:frames]).square().mean().sqrt()
        return float(error / wanted[:frames].square().mean().sqrt())

    differences = {"same input": differ(padded), "no padding": differ(clip)}
    tower.n_window = PUBLISHED_WINDOW
    return differences | {"chunks of 2 s": differ(clip)}
