"""A page to ask a student: the untouched base and the adapter answer side by side, from one model in memory.

    typed or recorded question -> checks -> adapter off: answer -> adapter on: answer -> two columns, streamed

    python recipes/space/app.py --adapter outputs/tiny            # the tiny lab, on http://127.0.0.1:7860
    python recipes/push.py recipes/space me/my-demo --adapter me/my-adapter --report outputs/tiny

On the Hub it reads its arguments from space.yaml, which push.py writes.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse
from peft import PeftModel
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.hf_argparser import HfArg

from trainer_ext.command_line import run_command
from trainer_ext.evaluation.asking import encode_question, read_clip
from trainer_ext.evaluation.generation import greedy_config, move_inputs
from trainer_ext.export.merge import find_base
from trainer_ext.hub.folders import PAGES
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.loading.student import inference_options
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.registry import load_student_family

HERE = Path(__file__).parent
CONFIG = HERE / "space.yaml"
MAX_CHARACTERS = 4_000
MAX_UPLOAD = "20mb"
WAITING = 64  # questions; further ones are refused
REPORT_ROUTE = "/answers"


@dataclass
class SpaceArguments:
    """The adapter, its base, and where the page is served."""

    adapter: str = HfArg(default="outputs/tiny", help="A folder or a Hub id.")
    adapter_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the adapter.")
    model_name_or_path: str | None = HfArg(default=None, help="The base. Unset: the one that the adapter names.")
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the base.")
    dtype: str = HfArg(default="auto", help="Precision of the weights.")
    load_in_4bit: bool = HfArg(default=False, help="Load the base in NF4.")
    max_new_tokens: int = HfArg(default=256, help="Longest answer, in tokens.")
    report: str | None = HfArg(
        default=None, help="A folder with report.md and a page of answers. Unset: the adapter's, if it is a folder."
    )
    server_name: str = HfArg(default="127.0.0.1", help="Address to serve; 0.0.0.0 for all.")
    server_port: int = HfArg(default=7860, help="Port to serve.")


class Stop(StoppingCriteria):
    """Ends a generation whose listener has left."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class TwoAnswers:
    """One model with an adapter, which answers one question at a time: with the adapter off, then on."""

    def __init__(self, model: PeftModel, family: StudentFamily, max_new_tokens: int) -> None:
        self.model, self.family, self.max_new_tokens = model, family, max_new_tokens
        self._lock = threading.Lock()  # the adapter is on or off for everybody

    def ask(self, question: str, clip: str | None) -> Iterator[tuple[str, str]]:
        """Yield both answers as they grow.

        Raises:
            ValueError: the question cannot be asked; says why.
        """
        inputs = self.encode(question, clip)
        base = adapted = ""
        with self._lock:
            for base in self._stream(inputs, adapter=False):
                yield base, ""
            for adapted in self._stream(inputs, adapter=True):
                yield base, adapted
        yield base or "(no answer)", adapted or "(no answer)"

    def encode(self, question: str, clip: str | None) -> dict[str, torch.Tensor]:
        """Return the model's inputs; a clip is taken before a written question."""
        question = question.strip()
        if clip is None and not question:
            raise ValueError("type a question, or record or upload one")
        if clip is None and len(question) > MAX_CHARACTERS:
            raise ValueError(f"the question has {len(question)} characters, and {MAX_CHARACTERS} are taken at most")
        samples = None if clip is None else read_clip(clip, self.family.max_speech_seconds, "the clip")
        return encode_question(self.family, question or None, samples)

    def _stream(self, inputs: dict[str, torch.Tensor], adapter: bool) -> Iterator[str]:
        """Yield the answer as it grows. The thread ends with the iterator, whatever happens."""
        streamer = TextIteratorStreamer(self.family.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop, errors = Stop(), []

        def generate() -> None:
            try:
                with torch.no_grad():
                    self.model.generate(
                        **move_inputs(inputs, self.model),
                        generation_config=greedy_config(self.family, self.max_new_tokens),
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList([stop]),
                    )
            except Exception as error:  # shown to the one who asked
                errors.append(error)
                streamer.end()

        with nullcontext() if adapter else self.model.disable_adapter():
            thread = threading.Thread(target=generate)
            thread.start()
            try:
                text = ""
                for piece in streamer:
                    text += piece
                    yield text.strip()
            finally:
                stop.event.set()
                thread.join()
        if errors:
            raise errors[0]


def load(arguments: SpaceArguments) -> TwoAnswers:
    """Load base and adapter."""
    base, revision = find_base(
        arguments.adapter, arguments.adapter_revision, arguments.model_name_or_path, arguments.model_revision
    )
    family = load_student_family(base, revision)
    model = family.load_model(base, **inference_options(family, arguments.dtype, revision, arguments.load_in_4bit))
    return TwoAnswers(
        load_adapter(model, arguments.adapter, arguments.adapter_revision), family, arguments.max_new_tokens
    )


def make_page(answers: TwoAnswers, title: str, scores: str | None, has_answers: bool) -> gradio.Blocks:
    """Return the page; what people and models write is shown as text."""
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"# Ask in writing or by voice\n\nThe base model and `{title}` on it, side by side.")
        with gradio.Row():
            question = gradio.Textbox(
                label="Question in writing", placeholder="What is two plus three?", lines=3, elem_id="question"
            )
            clip = gradio.Audio(
                label="Question by voice; it is asked instead of the written one",
                sources=["upload", "microphone"],
                type="filepath",
                elem_id="clip",
            )
        button = gradio.Button("Ask", variant="primary", elem_id="ask")
        note = gradio.Textbox(label="Note", interactive=False, visible=False, elem_id="note")
        with gradio.Row():
            base = gradio.Textbox(label="Base, adapter off", lines=5, interactive=False, elem_id="base")
            adapted = gradio.Textbox(label="Adapter on", lines=5, interactive=False, elem_id="adapted")

        def answer(written: str, spoken: str | None) -> Iterator[tuple[Any, ...]]:
            yield gradio.update(visible=False), "", ""
            try:
                for off, on in answers.ask(written or "", spoken):
                    yield gradio.update(visible=False), off, on
            except ValueError as error:
                yield gradio.update(value=str(error), visible=True), "", ""

        # One question at a time: the model has one adapter state.
        asked = [question, clip], [note, base, adapted]
        gradio.on(
            [button.click, question.submit],
            answer,
            *asked,
            concurrency_limit=1,
            api_name="ask",
            show_progress="minimal",
        )
        if scores is not None:
            gradio.Markdown(f"## Scores\n\n{scores}")
        if has_answers:
            gradio.HTML(
                f'<h2>Answers</h2><iframe src="{REPORT_ROUTE}" title="Answers" sandbox="allow-scripts" '
                'style="width:100%;height:800px;border:1px solid #ccc"></iframe>'
            )
    return page.queue(max_size=WAITING)


def make_app(arguments: SpaceArguments) -> FastAPI:
    """Return the server: the page, and beneath it the page of answers."""
    folder = Path(arguments.report or arguments.adapter)
    scores = (folder / "report.md").read_text(encoding="utf-8") if (folder / "report.md").is_file() else None
    answers = next((folder / name for name in PAGES if (folder / name).is_file()), None)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    if answers is not None:
        app.add_api_route(REPORT_ROUTE, lambda: FileResponse(answers, media_type="text/html"), methods=["GET"])
    title = Path(arguments.adapter).name if Path(arguments.adapter).is_dir() else arguments.adapter
    page = make_page(load(arguments), title, scores, answers is not None)
    # Until a page has launched, which a mounted one never does, Gradio takes any path of the server for an upload.
    page.has_launched = True
    return gradio.mount_gradio_app(app, page, path="/", max_file_size=MAX_UPLOAD, show_error=False)


def main() -> None:
    parser = RecipeParser((SpaceArguments,), CONFIG if CONFIG.is_file() else None, named_by=("adapter",))
    (arguments,) = parser.parse_args_and_config()
    keep_libraries_quiet()
    app = make_app(arguments)
    host = os.environ.get("GRADIO_SERVER_NAME", arguments.server_name)
    port = int(os.environ.get("GRADIO_SERVER_PORT", arguments.server_port))
    print(f"http://{host}:{port}", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")


if __name__ == "__main__":
    run_command(main)
