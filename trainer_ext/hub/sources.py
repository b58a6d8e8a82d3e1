"""Revisions and licenses of the models and data sets that a run used, as their pages on the Hub say."""

from collections.abc import Mapping

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError

from data_builders.hub.ids import is_local

TIMEOUT_SECONDS = 10.0


def describe_sources(
    models: Mapping[str, str | None], datasets: Mapping[str, str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return Hub id -> commit, and Hub id -> license; local folders and pages that cannot be read are left out.

    Args:
        models, datasets: name -> the revision that was used.
    """
    api, revisions, licenses = HfApi(), {}, {}
    for repo_type, named in (("model", models), ("dataset", datasets)):
        for name, revision in named.items():
            if is_local(name):
                continue
            try:
                info = api.repo_info(name, repo_type=repo_type, revision=revision, timeout=TIMEOUT_SECONDS)
            except (httpx2.HTTPError, OSError, HFValidationError):
                continue
            if info.sha:
                revisions[name] = info.sha
            card = getattr(info, "card_data", None)
            stated = card.to_dict().get("license") if card is not None else None
            if isinstance(stated, str):
                licenses[name] = stated
    return revisions, licenses
