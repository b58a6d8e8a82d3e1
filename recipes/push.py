"""Push what is on disk: a data set, an adapter, a merged model, a full Omni, soft targets, a report or a Space.

    folder -> kind, by its files -> allow-list, card -> rights -> one commit -> verified

    python recipes/push.py outputs/tiny me/my-adapter --dry_run          # every file with its size; sends nothing
    python recipes/push.py outputs/tiny me/my-adapter
    python recipes/push.py outputs/eval me/my-report --kind report       # the page of answers, as a static Space
    python recipes/push.py recipes/space me/my-demo --adapter me/my-adapter --report outputs/tiny

Log in by `hf auth login`, or set HF_TOKEN. A push that was stopped goes on where it was: run it again.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from data_builders.hub.folders import OWNER, make_upload, repository_name
from data_builders.hub.ids import is_local
from data_builders.hub.push import push
from data_builders.hub.repository import CARD, Repository, claim_repository, with_owner
from data_builders.hub.requests import NotPushed, PushFailed, PushRefused
from trainer_ext.command_line import run_command
from trainer_ext.evaluation.report_card import add_report, make_report_card
from trainer_ext.hub.folders import KINDS, REPORT, SPACE, find_kind
from trainer_ext.hub.model_card import name_base
from trainer_ext.hub.space import list_space_files, make_space_card
from trainer_ext.parser import RecipeParser


@dataclass
class PushArguments:
    """The folder, and the repository."""

    folder: str = HfArg(help="The folder to push.")
    repository: str | None = HfArg(default=None, help="user/name; a bare name is one of yours. Unset: the folder's.")
    kind: str | None = HfArg(default=None, help=f"Of the folder, if its files leave it open: {', '.join(KINDS)}.")
    dry_run: bool = HfArg(default=False, help="List every file with its size, and send nothing.")
    hub_private_repo: bool | None = HfArg(default=None, help="Create the repository private.")
    hub_revision: str | None = HfArg(default=None, help="Branch to push to.")
    overwrite_repository: bool = HfArg(default=False, help="Replace something else that the repository holds.")
    base_model: str | None = HfArg(
        default=None, help="Hub id of the base, if the card knows it as a local folder alone."
    )
    report: str | None = HfArg(
        default=None,
        help="A folder with a report: the card of a model gets its scores, as a table and as data; a Space shows its "
        "page of answers too.",
    )
    adapter: str | None = HfArg(default=None, help="Of a Space: the adapter on the Hub that it shows.")
    adapter_revision: str | None = HfArg(default=None, help="Of a Space: branch, tag or commit of the adapter.")
    report_model: str | None = HfArg(default=None, help="The model's label in that report, if it has several.")

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}, got {self.kind!r}")


def main() -> None:
    parser = RecipeParser((PushArguments,), positional=("folder", "repository"))
    (arguments,) = parser.parse_args_and_config()
    folder = Path(arguments.folder)
    kind = find_kind(folder, arguments.kind)
    repository = Repository(
        arguments.repository or repository_name(folder),
        kind.repo_type,
        arguments.hub_private_repo,
        arguments.hub_revision,
        arguments.overwrite_repository,
        kind.space_sdk,
    )
    card, added = None, {}
    if kind is REPORT:
        card = make_report_card(folder)
    elif kind is SPACE:
        card, added = make_space(arguments, repository)
    else:
        card = change_card(folder, arguments)
    if arguments.dry_run:
        for line in make_upload(folder, kind, name_offline(repository), card, added).show():
            print(line)
        return
    try:
        repository = with_owner(repository)
        upload = make_upload(folder, kind, repository.id, card, added)
        repository = claim_repository(repository, upload.contents)
        print(f"{len(upload.files)} files, {sum(file.size for file in upload.files):,} bytes", flush=True)
        print(push(upload, repository, f"Push of {upload.contents.kind}"))
    except PushFailed as error:
        raise NotPushed(f"{error}. Run this again: what arrived is not sent twice") from error


def name_offline(repository: Repository) -> str:
    """Return the repository's full id; with a stand-in for the owner where nobody is logged in."""
    try:
        return with_owner(repository).id
    except (PushRefused, PushFailed):
        return f"{OWNER}/{repository.id}"


def make_space(arguments: PushArguments, repository: Repository) -> tuple[str, dict[str, Path | bytes]]:
    """Return card and further files of a Space.

    Raises:
        PushRefused: the adapter that it shows is not on the Hub.
    """
    if arguments.adapter is None or is_local(arguments.adapter):
        raise PushRefused("a Space shows an adapter of the Hub: push the adapter, and name its id by --adapter")
    report = None if arguments.report is None else Path(arguments.report)
    title = repository.id.rpartition("/")[2]
    return make_space_card(arguments.adapter, title), list_space_files(
        arguments.adapter, arguments.adapter_revision, report
    )


def change_card(folder: Path, arguments: PushArguments) -> str | None:
    """Return the card with the base and the scores that the arguments name; None where they name none."""
    file = folder / CARD
    if not file.is_file() or (arguments.base_model is None and arguments.report is None):
        return None
    card = file.read_text(encoding="utf-8")
    if arguments.base_model is not None:
        card = name_base(card, arguments.base_model)
    if arguments.report is not None:
        card = add_report(card, Path(arguments.report), arguments.report_model)
    return card


if __name__ == "__main__":
    run_command(main)
