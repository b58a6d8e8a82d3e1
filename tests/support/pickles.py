"""Pickles that leave a mark when they are loaded."""

import io
import pickle
import zipfile
from pathlib import Path


class Mark:
    """Touches a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def make_pickle(mark: Path) -> bytes:
    """Return a pickle that touches `mark`."""
    return pickle.dumps({"lora_A": Mark(mark)})


def make_torch_file(mark: Path) -> bytes:
    """Return the same pickle as `torch.save` writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", make_pickle(mark))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()
