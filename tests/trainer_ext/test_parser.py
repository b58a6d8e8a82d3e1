"""Tests of YAML and command-line arguments."""

import pytest
import yaml

from data_builders.arguments import DataArguments
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.parser import RecipeParser

BASE = "model_name_or_path: student\nquestions: questions.jsonl\nreport_to: none\nuse_cpu: true\nbf16: false\n"


def parse(tmp_path, yaml_text: str, *typed: str):
    file = tmp_path / "config.yaml"
    file.write_text(BASE + yaml_text)
    parser = RecipeParser((ModelArguments, DataArguments, CrossModalDistillConfig))
    return parser, *parser.parse_args_and_config(["--config", str(file), *typed])


def test_the_command_line_wins_over_the_file(tmp_path):
    """Prevents: a sweep that changes nothing."""
    *_, training = parse(tmp_path, "learning_rate: 5e-6\ntemperature: 3\n", "--temperature", "4")
    assert training.temperature == 4.0
    assert training.learning_rate == 5e-6  # a string to YAML


def test_defaults_are_the_papers(tmp_path):
    """Prevents: defaults unlike section 4.1 (lambda .5, tau 2, learning rate 5e-6, two epochs) and table 2 (the
    teacher's answers).
    """
    *_, training = parse(tmp_path, "")
    assert (training.kl_weight, training.temperature, training.learning_rate) == (0.5, 2.0, 5e-6)
    assert (training.num_train_epochs, training.hard_targets) == (2.0, "teacher")
    assert training.channels == ["t2t", "s2t"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kl_weigth: 0.5", "unknown key 'kl_weigth'"),
        ("kl_weight: yes", "kl_weight: 'true' is not a float"),
        ("learning_rate: fast", "learning_rate: 'fast' is not a float"),
        ("channels: s2t", "channels takes a list"),
        ("temperature: [1, 2]", "temperature takes one value"),
        ("save_strategy: no", "save_strategy: 'false' is not one of no, steps"),
        ("temperature: -2", "temperature must be above 0"),
        ("use_peft: perhaps", "use_peft"),
        ("recordings_per_question: 5", "recordings_per_question is 5"),
        ("- 1", "is not YAML"),
    ],
)
def test_a_wrong_key_or_value_ends_the_run_with_one_line_that_names_it(tmp_path, capsys, line, words):
    """Prevents: unchecked YAML values: TRL's parser makes them defaults, which argparse does not check."""
    with pytest.raises(SystemExit) as stopped:
        parse(tmp_path, line)
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert words in message
    assert message.count("\n") <= 3


def test_the_resolved_config_repeats_the_run(tmp_path):
    """Prevents: a run whose settings cannot be read from its folder."""
    parser, *first = parse(tmp_path, "channels: [s2t]\nlora_r: 4\nuse_peft: true\n", "--seed", "7")
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(parser.resolved))
    second = RecipeParser((ModelArguments, DataArguments, CrossModalDistillConfig)).parse_args_and_config(
        ["--config", str(resolved)]
    )
    assert first[:2] == list(second[:2])
    assert first[2].to_dict() == second[2].to_dict()
