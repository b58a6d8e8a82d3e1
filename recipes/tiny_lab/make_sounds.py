"""Make the lab's sounds, and a second student that knows them: there is then something to forget.

    sounds.py -> questions about sounds, with their clips           outputs/tiny_lab/sounds
    student   -> adapted to sounds, and a little to all else        outputs/tiny_lab/sound_student

    python recipes/tiny_lab/make_sounds.py            # about 4 minutes on one core
    python recipes/build_sound_data.py
    accelerate launch recipes/s2t_t2t.py --config recipes/configs/tiny_sounds.yaml

The audio tower stays as it is; the language model learns to read what it says of a sound.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from datasets import Audio, Features, Value
from lab_speech import Clips, batch_rows, random_voice
from lab_training import REPEAT, fit, score
from sounds import make_sound
from tqdm import tqdm
from world import list_facts, sentence

from data_builders.audio import encode_speech
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.parquet import AtomicParquetWriter
from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent
from trainer_ext.students.registry import load_student_family

SEED = 0
STUDENT = Path(__file__).parent / "student"
QUESTIONS = {"train": 1200, "test": 300}
RECORDINGS = 2  # of each spoken question
# Shares of the rows of the adaptation; the others are clips to repeat.
SOUND_SHARE, TEXT_SHARE, SPEECH_SHARE = 0.75, 0.01, 0.01
COLUMNS = Features(
    {
        **{name: Value("string") for name in ("question", "answer", "reference", "family")},
        "audio": Audio(sampling_rate=SPEECH_RATE_HZ, decode=False),
    }
)


def write_questions(file: Path, count: int, rng: random.Random) -> None:
    """Write questions about sounds, with their clips."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with AtomicParquetWriter(file, COLUMNS) as writer:
        for sound in (make_sound(rng) for _ in range(count)):
            clip = {"bytes": encode_speech(sound.samples), "path": None}
            writer.write({name: getattr(sound, name) for name in COLUMNS if name != "audio"} | {"audio": clip})
        writer.close()


class Adaptation:
    """Rows of the adaptation: sounds, written and spoken questions, clips to repeat."""

    def __init__(self, family: Qwen2_5OmniStudent, heard: int, rng: random.Random) -> None:
        self.rng, self.family, clips = rng, family, Clips(family)
        self.sounds = [self.make_sound_row() for _ in tqdm(range(heard), desc="sounds", mininterval=5)]
        self.questions = [{"question": fact.question, "answer": sentence(fact.answer)} for fact in list_facts()]
        self.spoken = [
            (row, clips.speak(row["question"], random_voice(rng)))
            for row in tqdm(self.questions * RECORDINGS, desc="espeak-ng", mininterval=5)
        ]

    def make_sound_row(self) -> tuple[dict, dict]:
        sound = make_sound(self.rng)
        row = {"channel": "a2t", "question": sound.question, "answer": sound.answer}
        return row, self.make_clip(sound.samples)

    def make_clip(self, samples: np.ndarray) -> dict:
        features = self.family.extract_features([samples])["input_features"][0]
        return {"samples": len(samples), "features": features.half()}

    def choose(self) -> tuple[dict, dict | None]:
        """Return a random row, and its clip."""
        drawn = self.rng.random()
        if drawn < SOUND_SHARE:
            return self.rng.choice(self.sounds)
        if drawn < SOUND_SHARE + TEXT_SHARE:
            return self.rng.choice(self.questions), None
        row, clip = self.rng.choice(self.spoken)
        if drawn < SOUND_SHARE + TEXT_SHARE + SPEECH_SHARE:
            return row, clip
        return {"system": REPEAT, "answer": row["question"]}, clip

    def make_batch(self) -> dict[str, torch.Tensor]:
        return batch_rows(self.family, [self.choose() for _ in range(16)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/tiny_lab"))
    parser.add_argument("--heard", type=int, default=4000, help="sounds to adapt on; none of them is in the data set")
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the tables were made with one; more are not faster at this size
    torch.manual_seed(SEED)
    for number, (split, count) in enumerate(QUESTIONS.items()):
        write_questions(arguments.output_dir / "sounds" / f"{split}.parquet", count, random.Random(SEED + 1 + number))

    family = load_student_family(str(STUDENT))
    assert isinstance(family, Qwen2_5OmniStudent)
    thinker = family.load_model(str(STUDENT), dtype=torch.float32)
    adaptation = Adaptation(family, arguments.heard, random.Random(SEED))
    unheard = [adaptation.make_sound_row() for _ in range(200)]
    written = [(row, None) for row in adaptation.questions]
    thinker.model.audio_tower.requires_grad_(False)
    parameters = [*thinker.model.language_model.parameters(), *thinker.lm_head.parameters()]
    fit(parameters, lambda: thinker(**adaptation.make_batch()).loss, arguments.steps, 7e-4, "sound student")
    print(f"sound student: sounds {score(thinker, family, unheard):.1f}, text {score(thinker, family, written):.1f}")
    thinker.bfloat16().save_pretrained(arguments.output_dir / "sound_student")
    family.save_pretrained(str(arguments.output_dir / "sound_student"))


if __name__ == "__main__":
    main()
