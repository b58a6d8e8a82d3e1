"""A repository to push to: rights and contents are checked before any work, and again before the commit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from data_builders.hub.contents import NEW_REPOSITORY, Contents, describe_card, is_bare, is_edited, read_contents
from data_builders.hub.requests import PushRefused, retry

CARD = "README.md"


@dataclass(frozen=True)
class Repository:
    """Place of a push.

    Attributes:
        id: user/name; a bare name is one of the user who is logged in.
        type: model, dataset or space.
        private: of a new repository; None leaves it to the account's default.
        branch: None for main.
        overwrite: replace what the repository holds, whatever it is.
        space_sdk: of a new Space.
    """

    id: str
    type: str = "model"
    private: bool | None = None
    branch: str | None = None
    overwrite: bool = False
    space_sdk: str | None = None

    @property
    def revision(self) -> str:
        return self.branch or "main"


def claim_repository(repository: Repository, contents: Contents) -> Repository:
    """Return the repository with its full id, created unless it is there.

    Raises:
        PushRefused: it may not be written, holds something else, or is public against `private`.
        PushFailed: the Hub does not answer.
    """
    api = HfApi()
    account = retry(read_account, "the Hub")
    access = account.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise PushRefused(
            f"the token {access.get('displayName', '')!r} of {account['name']} may only read: make one that may write "
            f"at {api.endpoint}/settings/tokens, then run `hf auth login` or set HF_TOKEN"
        )
    repository = with_owner(repository, account["name"])
    if read_head(repository, contents) is None:
        if repository.branch:  # it will have the files of main
            read_head(replace(repository, branch=None), contents)
        retry(lambda: create(api, repository), repository.id)
    else:
        retry(lambda: api.auth_check(repository.id, repo_type=repository.type, write=True), repository.id)
    return repository


def with_owner(repository: Repository, owner: str | None = None) -> Repository:
    """Return the repository with its full id; a bare name is of the user who is logged in.

    Raises:
        PushRefused: nobody is logged in.
    """
    if "/" in repository.id:
        return repository
    owner = owner or retry(read_account, "the Hub")["name"]
    return replace(repository, id=f"{owner}/{repository.id}")


def read_account() -> dict[str, Any]:
    """Return the account of the token.

    Raises:
        ConnectionError: the reply is no account's, as of a proxy that asks to log in.
    """
    account = HfApi().whoami()
    if not isinstance(account, dict) or "name" not in account:
        raise ConnectionError("the reply to whoami is not the Hub's")
    return account


def create(api: HfApi, repository: Repository) -> None:
    """Create the repository and its branch; both may be there."""
    api.create_repo(
        repository.id,
        repo_type=repository.type,
        private=repository.private,
        space_sdk=repository.space_sdk,
        exist_ok=True,
    )
    if repository.branch:
        api.create_branch(repository.id, repo_type=repository.type, branch=repository.branch, exist_ok=True)


@dataclass(frozen=True)
class Head:
    """A branch's newest commit.

    Attributes:
        files: path -> bytes.
        is_ours: it holds what is to be pushed, in an earlier version, or nothing.
    """

    commit: str
    files: dict[str, int]
    is_ours: bool


def read_head(repository: Repository, contents: Contents) -> Head | None:
    """Return the newest commit, whose contents a push may replace; None without such a repository or branch.

    Raises:
        PushRefused: it holds something else, or is public against `private`.
        PushFailed: the Hub does not answer.
    """
    api = HfApi()

    def read() -> Head | None:
        try:
            info = api.repo_info(repository.id, repo_type=repository.type, revision=repository.revision)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        if repository.private and not info.private:
            raise PushRefused(
                f"{repository.id} is public, and hub_private_repo is true: make it private in its settings, or name "
                "another repository"
            )
        assert info.sha is not None
        files = list_files(api, repository, info.sha)
        other = find_other_contents(api, repository, info.sha, files, contents)
        if other is not None and not repository.overwrite:
            raise PushRefused(
                f"{repository.id} {other}: name another repository, or add --overwrite_repository true to replace it"
            )
        return Head(info.sha, files, other is None)

    return retry(read, repository.id)


def list_files(api: HfApi, repository: Repository, revision: str) -> dict[str, int]:
    """Return path -> bytes of every file of a commit."""
    tree = api.list_repo_tree(repository.id, repo_type=repository.type, revision=revision, recursive=True)
    return {entry.path: entry.size for entry in tree if hasattr(entry, "size")}


def find_other_contents(
    api: HfApi, repository: Repository, commit: str, files: Mapping[str, int], contents: Contents
) -> str | None:
    """Return what a repository holds that a push would not replace, as the end of a sentence; None for nothing."""
    named = files.keys() - {*NEW_REPOSITORY}
    if not named:
        return None
    if CARD not in named:
        return f"holds something else ({len(named)} files without a card) than {contents}"
    file = api.hf_hub_download(repository.id, CARD, repo_type=repository.type, revision=commit)
    card = Path(file).read_text(encoding="utf-8")
    held = read_contents(card)
    if held != contents:
        if named == {CARD} and is_bare(card):
            return None
        return f"holds something else ({describe_card(card) if held is None else held}) than {contents}"
    if is_edited(card):
        return "has a card that was edited there, which would be lost (copy the text first)"
    return None
