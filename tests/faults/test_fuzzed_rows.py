"""Attacks by rows, question files and configs: what people's files hold, by hypothesis.

CROSSMODAL_KD_ATTACKS=84 makes 10,000 rows.
"""

import json
import random
import string

import pyarrow as pa
import pytest
import yaml
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_builders.questions.read import read_questions
from data_builders.schema import FEATURES
from tests.support.attacks import SCALE
from tests.support.corrupt_clips import WHOLE, corrupt
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.collator import PairCollator
from trainer_ext.parser import RecipeParser
from trainer_ext.row_validation import check_rows

ROWS = 10  # of a data set
ATTACK = settings(
    max_examples=12 * SCALE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=SCALE == 1,
)
MARKS = ("<|im_end|>", "<|AUDIO|>", "\0", "\u2028", "\ufeff", "{{7*7}}", "%s", "../../x", "'; DROP", "🙂", "א")


def mostly(usual, odd):
    """Return a strategy of which one value in six is odd."""
    return st.integers(0, 5).flatmap(lambda number: usual if number else odd)


TEXTS = mostly(
    st.just("Which animal barks?"),
    st.one_of(st.none(), st.text(max_size=40), st.sampled_from(MARKS), st.just("word " * 3_000)),
)
NAMES = ("id", "system", "question", "teacher_response", "channels", "speech", "speech_seconds")
TYPES = {
    "text": (Value("string"), TEXTS),
    "number": (Value("int64"), st.one_of(st.none(), st.integers(-(2**60), 2**60))),
    "real": (Value("float64"), st.one_of(st.none(), st.floats())),
    "flag": (Value("bool"), st.booleans()),
    "texts": (List(Value("string")), st.one_of(st.none(), st.lists(st.sampled_from(["t2t", "s2t", "x", None])))),
    "numbers": (List(Value("int64")), st.lists(st.integers(0, 9), max_size=3)),
}
USUAL = {
    "id": (Value("string"), st.integers(0, 500).map(lambda number: f"id {number}" if number else None)),
    "channels": (
        List(Value("string")),
        mostly(st.sampled_from([["t2t"], ["s2t"], ["t2t", "s2t"]]), st.sampled_from([[], None, ["x"], [None]])),
    ),
    "speech_seconds": (Value("float32"), mostly(st.just(0.5), st.one_of(st.none(), st.floats(width=32)))),
}


@st.composite
def clips(draw) -> dict | None:
    """Return a cell of speech: whole, corrupt, a path, or nothing."""
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return None
    if kind == 1:
        return {"bytes": None, "path": draw(st.sampled_from(["/dev/zero", "/etc/passwd", "", "x.wav", "\0"]))}
    content = WHOLE["FLAC"] if kind < 9 else corrupt(random.Random(draw(st.integers(0, 10**9))))
    return {"bytes": content, "path": None}


@st.composite
def tables(draw) -> Dataset:
    """Return a data set with the columns of the schema, one in ten of another type."""
    columns, features = {}, {}
    for name in NAMES:
        if name == "speech":
            features[name], values = FEATURES[name], clips()
        elif draw(st.integers(0, 30)) == 0:
            features[name], values = TYPES[draw(st.sampled_from(sorted(TYPES)))]
        else:
            features[name], values = USUAL.get(name, (Value("string"), TEXTS))
        columns[name] = draw(st.lists(values, min_size=ROWS, max_size=ROWS))
    schema = Features(features).arrow_schema
    return Dataset(pa.Table.from_pydict(columns, schema=schema))


@pytest.fixture(scope="module")
def seen() -> dict[str, int]:
    """Count rows by their fate, and print the counts."""
    counts = {"rows": 0, "refused with their data set": 0, "rejected": 0, "trained": 0}
    yield counts
    print(counts)
    assert counts["rejected"] > counts["rows"] / 10
    assert counts["trained"] > counts["rows"] / 50


@ATTACK
@given(table=tables())
def test_rows_are_rejected_by_row_or_can_be_trained_on(family, teacher, seen, table):
    """Prevents: a row that passes the check and kills the run at step 9,000."""
    seen["rows"] += ROWS
    try:
        checked = check_rows(table, family, teacher.encoder, ["t2t", "s2t"], "teacher", 512, every_channel=False)
    except ValueError as error:
        assert str(error)
        seen["refused with their data set"] += ROWS
        return
    seen["rejected"] += len(checked.rejected)
    collator = PairCollator(family, teacher.encoder, ("t2t", "s2t"), "teacher", 512)
    for row, length in zip(table, checked.lengths, strict=True):
        if length:
            try:
                collator([row])
            except ValueError as error:  # a clip that is damaged in its middle
                assert str(error).startswith(f"row {row['id']}: ")
            else:
                seen["trained"] += 1


JSON_TEXT = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(MARKS)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
FIELDS = st.sampled_from(["question", "system", "gold_response", "channels", "split", "id", "source", "x"])


@ATTACK
@given(
    lines=st.lists(
        st.one_of(
            st.dictionaries(FIELDS, JSON_TEXT, max_size=5).map(json.dumps),
            st.text(max_size=40),
            JSON_TEXT.map(json.dumps),
        ),
        min_size=1,
        max_size=ROWS,
    ),
    suffix=st.sampled_from([".jsonl", ".csv", ".tsv", ".txt", ".json", ".parquet"]),
    noise=st.binary(max_size=4),
)
def test_files_of_questions_are_read_or_named(tmp_path, lines, suffix, noise):
    """Prevents: a raw error of a loader for a person's own file."""
    file = tmp_path / f"questions{suffix}"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + noise)
    try:
        for row in read_questions(str(file)):
            json.dumps(row).encode()
            assert isinstance(row["question"], str)
            assert isinstance(row["source_id"], str)
    except ValueError as error:
        assert str(error)


WORDS = st.one_of(
    JSON_TEXT,
    st.sampled_from([1e400, -1, 0, "1e-4", "nan", "!!python/object:os.system x", "&a [*a]", [], {}, True, None]),
)


@ATTACK
@given(
    values=st.dictionaries(
        st.one_of(
            st.sampled_from(["learning_rate", "kl_weight", "max_steps", "channels", "lora_r", "seed", "eval_strategy"]),
            st.text(string.ascii_lowercase + "_", min_size=1, max_size=12),
        ),
        WORDS,
        max_size=4,
    ),
    noise=st.text(max_size=6),
)
def test_configs_are_read_or_refused_by_key(tmp_path, capsys, values, noise):
    """Prevents: a traceback for a mistyped config, or code in YAML that runs."""
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.safe_dump({"output_dir": str(tmp_path / "out"), "report_to": "none", **values}) + noise, "utf-8"
    )
    parser = RecipeParser((ModelArguments, CrossModalDistillConfig))
    try:
        parser.parse_args_and_config(["--config", str(file), "--model_name_or_path", "x"])
    except SystemExit as ended:
        assert ended.code == 2
        assert "Traceback" not in capsys.readouterr().err
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("output_dir: " + "[" * 20_000 + "]" * 20_000, "is not YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\noutput_dir: *b", "aliases are not read"),
        ("output_dir: a\noutput_dir: b", "the key 'output_dir' is there twice"),
    ],
)
def test_hostile_yaml_is_refused_at_once(tmp_path, capsys, content, message):
    """Prevents: 20 GB of memory for 400 bytes, and a value that is silently not used."""
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(SystemExit):
        RecipeParser((ModelArguments, CrossModalDistillConfig)).parse_args_and_config(
            ["--config", str(tmp_path / "config.yaml")]
        )
    assert message in capsys.readouterr().err
