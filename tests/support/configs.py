"""The recipes' YAML files."""

from tests.support.lab import ROOT

CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
OMNI_CONFIGS = sorted((ROOT / "recipes" / "configs" / "nano").glob("*.yaml"))
SOUND_CONFIGS = sorted((ROOT / "recipes" / "configs" / "sounds").glob("*.yaml"))
DATA_CONFIGS = sorted((ROOT / "recipes" / "configs" / "data").glob("*.yaml"))
