"""The page in a real browser: clicks, sound, no request; needs Chromium and `pip install playwright`."""

import shutil
import time

import pytest

from tests.support.answered import answered
from trainer_ext.evaluation.items import one_part
from trainer_ext.evaluation.page import write_page
from trainer_ext.evaluation.scoring import Cell, Scored

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ITEMS = 1000
PLAY = """async () => {
    const audio = document.querySelector("audio");
    audio.muted = true;
    await audio.play();
    await new Promise(resolve => setTimeout(resolve, 400));
    return [audio.duration, audio.currentTime, audio.error];
}"""


@pytest.fixture
def page_file(pairs, tmp_path):
    """Write a page of a thousand items: every fifth is worse with the adapter, every fifth better."""
    results = {}
    for model, shift in (("base", 0), ("adapter", 1)):
        for modality in ("text", "speech"):
            results[Cell("bench", model, modality)] = [
                Scored(answered(f"answer {n}", number=n, modality=modality), one_part(float((n + shift) % 5 > 0)))
                for n in range(ITEMS)
            ]
    clip = pairs["test"][0]["speech"]
    write_page(tmp_path / "index.html", results, lambda *_: clip, "base")
    return tmp_path / "index.html"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_reads_hears_sorts_and_filters_a_thousand_items(page_file):
    """Prevents: a page that is blank, silent or slow in a real browser, or that tells somebody who opens it."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        requests, problems = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        start = time.monotonic()
        page.goto(page_file.as_uri())
        page.wait_for_selector("article")
        assert time.monotonic() - start < 2

        def read_ids():
            return [node.get_attribute("data-id") for node in page.locator("article").all()]

        assert page.text_content("#count") == f"{ITEMS} of {ITEMS} items"
        seconds, position, error = page.evaluate(PLAY)
        assert seconds > 0.5
        assert position > 0
        assert error is None
        worse = read_ids()[:3]
        page.select_option("#sort", "best")
        assert worse != read_ids()[:3] == ["i0", "i5", "i10"]
        page.select_option("#show", "worse")
        assert page.text_content("#count") == f"{ITEMS // 5} of {ITEMS} items"
        page.select_option("#show", "every")
        page.fill("#search", "answer 77")
        assert page.text_content("#count") == f"11 of {ITEMS} items"
        page.fill("#search", "")
        page.click("#more")
        assert len(read_ids()) == 100
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert problems == []
        browser.close()
