"""The record of a run, written when it begins: its settings, and the versions of everything installed."""

import platform
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from data_builders.redaction import hide_passwords
from data_builders.storage.atomic import write_atomic

SETTINGS, ENVIRONMENT = "resolved.yaml", "environment.yaml"


def write_run_record(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write resolved.yaml, a config that repeats the run, and environment.yaml into a folder."""
    write_atomic(folder / SETTINGS, yaml.safe_dump(hide_passwords(settings)).encode())
    write_atomic(folder / ENVIRONMENT, yaml.safe_dump(list_versions()).encode())


def list_versions() -> dict[str, Any]:
    """Return Python, system and the version of every installed package."""
    packages = {str(package.metadata["Name"]).lower(): package.version for package in distributions()}
    return {"python": platform.python_version(), "system": platform.platform(), "packages": packages}
