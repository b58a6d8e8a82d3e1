"""The outcome of scoring one row."""

from data_builders.outcomes import TemporaryFailure
from data_builders.schema import SoftTarget

ScoreOutcome = SoftTarget | ValueError | TemporaryFailure
