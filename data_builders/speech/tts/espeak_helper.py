"""Helper process around espeak-ng: reads requests, forks once per utterance, writes samples.

The library is neither thread-safe nor repeatable within a process (the second utterance differs from the same
utterance spoken first). So this process loads it, never synthesizes itself, and forks a child per request: equal
requests give equal samples in any order, a crash or a hang costs one utterance, and the GPL code stays behind a pipe.

    stdin    one JSON object a line: {"text", "voice", "words_per_minute", "pitch", "timeout_seconds"}
    stdout   once: uint32 sampling rate; then per request: b"+" or b"-", uint32 length, PCM16 or the error message

Started by `espeak.py`; needs only the package `espeakng-loader`.
"""

import ctypes
import json
import os
import select
import signal
import struct
import sys
import time
from pathlib import Path

import espeakng_loader

# espeak-ng/speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
PARAMETER_RATE, PARAMETER_PITCH = 1, 3
POSITION_CHARACTER, CHARS_UTF8 = 1, 1
SEED = 1
SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def load_library() -> tuple[ctypes.CDLL, int]:
    """Return the initialized library and its sampling rate in Hz."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data_folder = bytes(Path(espeakng_loader.get_data_path()).parent)
    rate_hz = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data_folder, 0)
    if rate_hz <= 0:
        raise RuntimeError(f"espeak_Initialize failed with {rate_hz}")
    # Reads the files of all voices once; otherwise every child does, 3 of 6 ms per utterance.
    library.espeak_ListVoices(None)
    return library, rate_hz


def synthesize(library: ctypes.CDLL, request: dict) -> bytes:
    """Return the PCM16 mono samples of one utterance."""
    pieces: list[bytes] = []

    def collect(samples, count, _events):
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = SYNTH_CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {request['voice']!r}")
    library.espeak_SetParameter(PARAMETER_RATE, request["words_per_minute"], 0)
    library.espeak_SetParameter(PARAMETER_PITCH, request["pitch"], 0)
    # Breathy variants (f2 is one) draw noise; the default seed is the time of day.
    library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))
    text = request["text"].encode()
    if library.espeak_Synth(text, len(text) + 1, 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None) != 0:
        raise RuntimeError("espeak_Synth failed")
    library.espeak_Synchronize()
    return b"".join(pieces)


def synthesize_in_fork(library: ctypes.CDLL, request: dict) -> bytes:
    """Return b"+" and the samples, or b"-" and the error message."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            response = b"+" + synthesize(library, request)
        except Exception as error:
            response = b"-" + str(error).encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(response)
        os._exit(0)
    os.close(writer)
    received = read_until_closed(reader, time.monotonic() + request["timeout_seconds"])
    if received is None:
        os.kill(child, signal.SIGKILL)
        received = b"-espeak-ng did not finish in %g s" % request["timeout_seconds"]
    _, status = os.waitpid(child, 0)
    return received or b"-espeak-ng died (wait status %d)" % status


def read_until_closed(reader: int, deadline: float) -> bytes | None:
    """Return everything written to the pipe; None when the deadline passes first."""
    pieces: list[bytes] = []
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return None
            piece = pipe.read(1 << 20)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)


def main() -> None:
    library, rate_hz = load_library()
    output = sys.stdout.buffer
    output.write(struct.pack("<I", rate_hz))
    output.flush()
    for line in sys.stdin.buffer:
        response = synthesize_in_fork(library, json.loads(line))
        output.write(response[:1] + struct.pack("<I", len(response) - 1) + response[1:])
        output.flush()


if __name__ == "__main__":
    main()
