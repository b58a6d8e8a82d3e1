"""Data sets in the published layouts of the benchmarks, made of the lab's questions and clips."""

import io
import json
from pathlib import Path

import soundfile
import soxr
import yaml
from datasets import Audio, Features, List, Value

from data_builders.audio import decode_speech
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.parquet import AtomicParquetWriter
from trainer_ext.evaluation.benchmarks.voicebench import ACCENTS, DOMAINS

TEXT = Value("string")
SPLITS = {"sd-qa": ACCENTS, "mmsu": DOMAINS}
# Every instruction's arguments are columns of every row.
ARGUMENTS = {"num_words": Value("int64"), "relation": TEXT, "keywords": List(TEXT)}
COLUMNS = {
    "alpacaeval_full": {},
    "commoneval": {},
    "wildvoice": {},
    "sd-qa": {"reference": TEXT},
    "mmsu": {"reference": TEXT},
    "openbookqa": {"reference": TEXT},
    "bbh": {"reference": TEXT, "id": TEXT},
    "ifeval": {"key": Value("int64"), "instruction_id_list": List(TEXT), "kwargs": List(ARGUMENTS)},
    "advbench": {},
}


def encode(samples, rate_hz: int, kind: str) -> bytes:
    """Return 16 kHz samples as a file of another rate and format, as published clips have them."""
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(samples, SPEECH_RATE_HZ, rate_hz), rate_hz, format=kind)
    return file.getvalue()


def write_parquet(file: Path, features: dict, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = AtomicParquetWriter(file, Features(features))
    for row in rows:
        writer.write(row)
    writer.close()


def make_row(subset: str, number: int, question: str) -> dict:
    """Return the columns of a subset beside the clip."""
    values = {"prompt": question}
    if subset == "bbh":
        task = ("sports_understanding", "hyperbaton", "navigate", "web_of_lies")[number % 4]
        values |= {"id": f"{task}_{number}", "reference": "(a)" if task == "hyperbaton" else "yes"}
    elif subset == "ifeval":
        values |= {
            "key": number,
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [
                {"num_words": None, "relation": None, "keywords": None},
                {"num_words": 3, "relation": "at least", "keywords": None},
            ],
        }
    elif "reference" in COLUMNS[subset]:
        values["reference"] = "ABCD"[number % 4] if subset != "sd-qa" else "two"
    return values


def write_voicebench(folder: Path, rows: list[dict], clips: list) -> Path:
    """Write all nine subsets with their splits, each of all rows; returns the folder."""
    configs = []
    for subset, columns in COLUMNS.items():
        files = []
        for split in SPLITS.get(subset, ("test",)):
            name = f"{subset}/{split}-00000-of-00001.parquet"
            cells = []
            for n, (row, clip) in enumerate(zip(rows, clips, strict=True)):
                audio = {"bytes": encode(clip, 24_000, "WAV"), "path": f"{n}.wav"}
                cells.append({**make_row(subset, n, row["question"]), "audio": audio})
            write_parquet(folder / name, {"prompt": TEXT, **columns, "audio": Audio(decode=False)}, cells)
            files.append({"split": split, "path": name})
        configs.append({"config_name": subset, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return folder


CHOICES = ["A dog", "A cat", "Two cats"]


def write_mmau(folder: Path, clips: list) -> tuple[Path, Path]:
    """Write both versions of MMAU-mini; returns their folders."""
    original, revised = folder / "original", folder / "revised"
    features = dict.fromkeys(("question", "choices", "answer", "task", "difficulty", "sub-category"), TEXT)
    rows = [
        {"question": "What is heard?", "choices": json.dumps(CHOICES), "answer": "A cat", "task": task,
         "difficulty": "easy", "sub-category": "x", "audio": {"bytes": encode(clip, 16_000, "WAV"), "path": None}}
        for clip, task in zip(clips, ("sound", "music", "speech") * len(clips), strict=False)
    ]  # fmt: skip
    for split in ("test_mini", "test"):
        file = original / "data" / f"{split}-00000-of-00001.parquet"
        write_parquet(file, {**features, "audio": Audio(decode=False)}, rows)
    lettered = [f"({letter}) {choice}" for letter, choice in zip("ABC", CHOICES, strict=True)]
    rows = [
        {"instruction": "What is heard?", "choices": lettered, "answer": "(B) A cat",
         "other_attributes": json.dumps({"id": f"m{n}", "task": row["task"], "difficulty": "easy"}),
         "context": row["audio"]}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    features = {"instruction": TEXT, "choices": List(TEXT), "answer": TEXT, "other_attributes": TEXT}
    clip = {"bytes": Value("binary"), "path": TEXT}
    write_parquet(revised / "test_mini.parquet", {**features, "context": clip}, rows)
    return original, revised


def write_mmar(folder: Path, clips: list) -> Path:
    """Write MMAR-meta.jsonl beside its audio; returns the file."""
    (folder / "audio").mkdir(parents=True)
    lines = []
    for n, clip in enumerate(clips):
        (folder / "audio" / f"{n}.wav").write_bytes(encode(clip, 44_100, "WAV"))
        row = {"id": f"r{n}", "audio_path": f"./audio/{n}.wav", "question": "What is heard", "choices": CHOICES}
        lines.append({**row, "answer": "Two cats", "modality": "mix-sound-speech", "category": "Signal Layer"})
    (folder / "MMAR-meta.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder / "MMAR-meta.jsonl"


def write_big_bench_audio(folder: Path, clips: list) -> Path:
    """Write MP3 files with metadata.jsonl, as an audio folder; returns it."""
    (folder / "data").mkdir(parents=True)
    lines = []
    for n, clip in enumerate(clips):
        (folder / "data" / f"question_{n}.mp3").write_bytes(encode(clip, 44_100, "MP3"))
        row = {"file_name": f"data/question_{n}.mp3", "id": n, "category": "navigate", "official_answer": "Yes"}
        lines.append(row)
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def read_clips(rows) -> list:
    """Return the samples of rows of the data contract."""
    return [decode_speech(row["speech"], row["id"]) for row in rows]
