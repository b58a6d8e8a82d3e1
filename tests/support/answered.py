"""Answered items for tests of scores and reports."""

from trainer_ext.evaluation.items import STOP, Answer, AnsweredItem, Item


def answered(text, reference="A", number=0, modality="text", finish=STOP, **values) -> AnsweredItem:
    """Make an answer; further values are the item's."""
    fields = {
        "id": f"i{number}", "question_id": f"q{number}", "benchmark": "test", "group": "all of them",
        "question": f"Question {number}?", "reference": reference, **values,
    }  # fmt: skip
    return AnsweredItem(Item(**fields), modality, Answer(text, finish, tokens=3))


class FixedJudge:
    """Gives the same votes on everything; records what it was asked."""

    def __init__(self, votes) -> None:
        self.votes, self.asked = votes, []

    def check(self):
        pass

    def ask(self, prompts, pattern):
        self.asked += prompts
        return [self.votes for _ in prompts]
