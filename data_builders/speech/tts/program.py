"""Speech programs of the system, run once per utterance."""

import subprocess

TIMEOUT_SECONDS = 60.0


def run_program(name: str, command: list[str], text: str, stdin: bytes | None = None) -> bytes:
    """Run a program that speaks a text; returns its standard output.

    Args:
        name: of the engine, for errors.
        command: program and arguments, which never go through a shell.

    Raises:
        ValueError: it failed on this text, or did not finish.
    """
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{name} did not finish in {TIMEOUT_SECONDS:g} s") from error
    if done.returncode != 0:
        raise ValueError(f"{name} failed on {text[:60]!r}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
