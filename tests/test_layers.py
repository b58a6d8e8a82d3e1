"""Data goes one way: a module imports only what stands before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each line may import from itself and from the lines above it.
ORDER = [
    ["data_builders.schema"],
    ["data_builders.arguments"],
    [
        "data_builders.journal",
        "data_builders.calls",
        "data_builders.whole_files",
        "data_builders.tts.espeak_helper",
    ],
    ["data_builders.openai_client", "data_builders.identity"],
    ["data_builders.prompts"],
    ["data_builders.spoken_form"],
    ["data_builders.speakability", "data_builders.duplicates"],
    ["data_builders.plan"],
    ["data_builders.targets"],
    ["data_builders.teacher_model", "data_builders.teacher_server"],
    ["data_builders.tts.espeak", "data_builders.tts.server", "data_builders.tts.pocket"],
    ["data_builders.speech"],
    ["data_builders.noise"],
    ["data_builders.takes"],
    ["data_builders.asr.closed_set", "data_builders.asr.whisper", "data_builders.word_error_rate"],
    ["data_builders.speech_check"],
    ["data_builders.stages"],
    ["data_builders.shards"],
    ["data_builders.dataset_card"],
    ["data_builders.finish", "data_builders.hub"],
    ["data_builders.finished"],
    ["data_builders.executors"],
    ["data_builders.build"],
    ["data_builders.pairs"],
    ["data_builders.soft_targets"],
    ["data_builders.logprob_server"],
    ["trainer_ext.alignment"],
    ["trainer_ext.divergences"],
    ["trainer_ext.signals"],
    ["trainer_ext.elementwise"],
    ["trainer_ext.kernels"],
    ["trainer_ext.losses"],
    ["trainer_ext.shards", "trainer_ext.row_attention"],
    ["trainer_ext.students.whisper_features", "trainer_ext.students.qwen2_5_omni_names"],
    ["trainer_ext.students.qwen2_5_omni"],
    ["trainer_ext.students.families"],
    ["trainer_ext.forward"],
    ["trainer_ext.teachers.kinds"],
    ["trainer_ext.teachers.written"],
    ["trainer_ext.teachers.model"],
    ["trainer_ext.teachers.scorer"],
    ["trainer_ext.teachers.itself"],
    ["trainer_ext.teachers.stored"],
    ["trainer_ext.collator"],
    ["trainer_ext.checks"],
    ["trainer_ext.arguments"],
    ["trainer_ext.teachers.loading"],
    ["trainer_ext.whole"],
    ["trainer_ext.parser"],
    ["trainer_ext.checkpoints"],
    ["trainer_ext.progress"],
    ["trainer_ext.adapters"],
    ["trainer_ext.merging"],
    ["trainer_ext.export"],
    ["trainer_ext.memory.tracker", "trainer_ext.memory.sharding", "trainer_ext.memory.cards"],
    ["trainer_ext.memory.activations"],
    ["trainer_ext.memory.plan"],
    ["trainer_ext.memory.table", "trainer_ext.memory.time"],
    ["trainer_ext.memory.callback"],
    ["trainer_ext.trainer"],
    ["trainer_ext.memory.training"],
    ["trainer_ext.evaluation.answers"],
    ["trainer_ext.evaluation.scores"],
    ["trainer_ext.evaluation.report"],
    ["trainer_ext.evaluation.plots"],
    ["trainer_ext.card"],
]
POSITION = {name: position for position, line in enumerate(ORDER) for name in line}
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for package in ("data_builders", "trainer_ext")
    for file in sorted((ROOT / package).rglob("*.py"))
    if file.name != "__init__.py"
}


def imports(file: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_every_module_has_its_place_in_the_line():
    """A new module without one could import anything."""
    assert set(MODULES) == set(POSITION)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_stands_before_it(name):
    """One import back up the line and nothing can be read, or replaced, alone."""
    for imported in imports(MODULES[name]):
        assert not imported.startswith("recipes")
        if imported.split(".")[0] in ("data_builders", "trainer_ext"):
            assert POSITION[imported] <= POSITION[name], f"{name} imports {imported}"
            if name.startswith("trainer_ext"):
                assert imported.startswith("trainer_ext") or imported == "data_builders.schema"


@pytest.mark.parametrize(
    "name",
    [
        f"trainer_ext.{name}"
        for name in ("alignment", "divergences", "signals", "elementwise", "losses")
    ],
)
def test_the_mathematics_needs_torch_alone(name):
    """So that it can be read beside the paper, and taken elsewhere."""
    foreign = {module.split(".")[0] for module in imports(MODULES[name])} - {
        *("torch", "dataclasses", "math", "collections", "importlib")
    }
    assert foreign <= {"trainer_ext"}


def test_importing_the_package_is_fast():
    """`import trainer_ext` pulls in transformers and trl only when a name is used."""
    import subprocess
    import sys

    script = "import sys, trainer_ext; assert 'transformers' not in sys.modules, 'heavy'"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
