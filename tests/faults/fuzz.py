"""Coverage-guided fuzzing of what reads bytes of others, by atheris (`pip install atheris`; not among the tests).

    python tests/faults/fuzz.py clips -runs=100000          # a clip's bytes -> samples
    python tests/faults/fuzz.py caches -runs=20000          # the bytes of a cache's file -> values
    python tests/faults/fuzz.py questions -runs=100000      # the lines of a question file -> rows
    python tests/faults/fuzz.py safetensors -runs=100000    # the bytes of a weights file -> names and offsets

An error other than those that recipes report in one line ends it, with the input in a file crash-*.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["data_builders", "trainer_ext", "soundfile"]):
    from data_builders.audio import decode_speech, measure_clip
    from data_builders.questions.text_files import READERS, open_text_file
    from data_builders.storage.call_cache import CallCache
    from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles
    from trainer_ext.command_line import MENDABLE

FOLDER = Path(tempfile.mkdtemp())


def read_clip(data: bytes) -> None:
    cell = {"bytes": data, "path": None}
    for read in (measure_clip, decode_speech):
        try:
            read(cell, "a")
        except ValueError:
            continue


def read_cache(data: bytes) -> None:
    file = FOLDER / "a.sqlite"
    file.write_bytes(data)
    file.with_name("a.sqlite-journal").unlink(missing_ok=True)
    cache = CallCache(file)
    try:
        cache.adopt(["a", "b"])
        cache.read("a", bytes.decode)
        cache.put("b", b"1")
    finally:
        cache.close()


def read_questions(data: bytes) -> None:
    suffix = list(READERS)[data[0] % len(READERS)] if data else ".txt"
    file = FOLDER / f"questions{suffix}"
    file.write_bytes(data[1:])
    list(open_text_file(file).rows)


def read_safetensors(data: bytes) -> None:
    (FOLDER / "model.safetensors").write_bytes(data)
    files = SafetensorsFiles.from_pretrained(str(FOLDER))
    for name in files.file_of:
        files.read(name)


TARGETS = {"clips": read_clip, "caches": read_cache, "questions": read_questions, "safetensors": read_safetensors}


def write_corpus(target: str) -> Path:
    """Write whole files to begin with."""
    corpus = Path(tempfile.mkdtemp())
    if target == "clips":
        from tests.support.corrupt_clips import WHOLE

        for kind, content in WHOLE.items():
            (corpus / kind).write_bytes(content[:2_000])
    elif target == "caches":
        cache = CallCache(corpus / "whole")
        cache.put_all({"a": b"1", "c": bytes(100)})
        cache.close()
    elif target == "questions":
        for number, line in enumerate((b'{"question": "Hi?"}\n', b'question,id\n"a ""b""",1\n', b"Hi?\n", b"[{}]")):
            (corpus / str(number)).write_bytes(bytes([number]) + line)
    else:
        import torch
        from safetensors.torch import save

        (corpus / "whole").write_bytes(save({"a": torch.ones(2, 3), "b": torch.zeros(1)}))
    return corpus


def main() -> None:
    target = TARGETS[sys.argv[1]]

    def attack(data: bytes) -> None:
        try:
            target(data)
        except MENDABLE:
            return

    atheris.Setup([sys.argv[0], *sys.argv[2:], "-max_len=8192", str(write_corpus(sys.argv[1]))], attack)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
