"""Tests that a module imports only its own folder and the folders below it."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.lab import ROOT

# From the bottom up. A folder stands for all of its modules; a line may import itself and the lines above it.
ORDER = """
data_builders.schema data_builders.outcomes data_builders.registry data_builders.redaction
data_builders.hub
data_builders.pretrained data_builders.time_limit
data_builders.audio data_builders.chat data_builders.causal_lm data_builders.arguments
data_builders.chat_encoder
data_builders.storage data_builders.clients
data_builders.questions data_builders.answers data_builders.speech data_builders.soft_targets
data_builders.pipeline
data_builders.pairs data_builders.sounds
trainer_ext.supported_arguments trainer_ext.recipe_words trainer_ext.process_exit
trainer_ext.loss trainer_ext.checkpoints
trainer_ext.students
trainer_ext.teachers
trainer_ext.collator trainer_ext.pair_batch trainer_ext.channel_meter trainer_ext.length_sampler
trainer_ext.token_budget_sampler
trainer_ext.judge_free
trainer_ext.arguments trainer_ext.progress trainer_ext.run_identity trainer_ext.command_line
trainer_ext.environment trainer_ext.early_answers
trainer_ext.parser trainer_ext.preview
trainer_ext.row_validation trainer_ext.loading trainer_ext.hub
trainer_ext.evaluation
trainer_ext.resumable_trainer
trainer_ext.pushing_trainer
trainer_ext.trainer
trainer_ext.memory trainer_ext.export
"""
POSITION = {name: n for n, line in enumerate(ORDER.split("\n")) for name in line.split()}
# All that training sees of the data: columns, clips, what a text LLM reads and how it is loaded, registries, files.
SEEN_BY_TRAINING = {
    *("schema", "outcomes", "audio", "chat", "chat_encoder", "causal_lm", "registry", "storage", "hub", "redaction"),
    *("pretrained", "time_limit"),
}
# Evaluation asks text LLMs and servers as the data builder does, disturbs clips and counts wrong words.
SEEN_BY_EVALUATION = {"answers", "arguments", "clients", "speech"}
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for package in ("data_builders", "trainer_ext")
    for file in sorted((ROOT / package).rglob("*.py"))
    if file.name != "__init__.py"
}


def imports(file: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def place(module: str) -> str:
    """Return the entry of ORDER that a module belongs to."""
    return ".".join(module.split(".")[:2])


def test_every_module_has_its_place():
    """Prevents: a new folder that may import anything."""
    assert {place(name) for name in MODULES} == set(POSITION)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_stands_below_it(name):
    """Prevents: an import up the line, after which no part can be read or replaced alone."""
    for imported in imports(MODULES[name]):
        top, _, rest = imported.partition(".")
        assert top not in ("recipes", "tests")
        if top in ("data_builders", "trainer_ext"):
            assert POSITION[place(imported)] <= POSITION[place(name)], f"{name} imports {imported}"
            if top == "data_builders" and name.startswith("trainer_ext"):
                seen = SEEN_BY_TRAINING | (SEEN_BY_EVALUATION if name.startswith("trainer_ext.evaluation") else set())
                assert rest.split(".")[0] in seen, f"{name} imports {imported}"


def test_no_module_imports_itself_through_others():
    """Prevents: two modules that can only be understood, and loaded, together."""
    graph = {name: imports(file) & MODULES.keys() for name, file in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("trainer_ext.loss.")])
def test_the_loss_needs_torch_alone(name):
    """Prevents: a loss that cannot be read beside the paper, or taken elsewhere."""
    allowed = {"torch", "triton", "dataclasses", "typing", "math", "collections", "importlib", "trainer_ext"}
    assert {module.split(".")[0] for module in imports(MODULES[name])} <= allowed


def test_importing_the_package_is_fast():
    """Prevents: `import trainer_ext` that loads transformers and trl before a name is used."""
    script = "import sys, trainer_ext; assert 'transformers' not in sys.modules, 'heavy'"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
