"""The panel: files in, settings, a queue of one, before and after, results out.

Knows no host: whoever draws it brings the `Engine`. Drawn by Gradio 3.41, 4.40 and today's, so it uses what these have
in common; a WebUI puts it into a tab, `dfosd app` on a page of its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import DfosdError
from ..settings import FULL_DECODER
from . import controls, view
from .limits import Limits, without_folder
from .preview import Pair, thumbnail_url
from .runner import Engine, Request, Run, Workplace

_SHOWN_LINES = 6
_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False}


@dataclass(frozen=True, kw_only=True)
class ModelLists:
    """What the drop-downs offer; asked again by the refresh button. The first of each is the default."""

    bases: Callable[[], Sequence[str]]
    loras: Callable[[], Sequence[str]]
    decoders: Callable[[], Sequence[str]]
    about_lora: Callable[[str], str] = lambda _: ""
    """Where a LoRA of the list comes from, in a line; "" where there is nothing to say. May raise DfosdError."""

    def origin(self, name: str | None) -> str:
        """What is shown beside the choice of a LoRA, as HTML: its origin, or why it cannot be used."""
        try:
            return view.summary([line] if (line := self.about_lora(name or "")) else [], [])
        except DfosdError as error:
            return view.summary([], [str(error)])


@dataclass
class Panel:
    """The panel's work behind its controls."""

    workplace: Workplace
    _runs: dict[str, Run] = field(init=False, default_factory=lambda: {})

    def look(self, files: Any, *values: Any) -> tuple[str, str]:
        """After an upload: the first picture, unless it is too large, and what will become of the files."""
        paths = _paths(files)
        if not paths:
            return view.welcome(), ""
        try:
            self.workplace.limits.check(paths[0], controls.settings_of(values))
            with self.workplace.decoding:
                url, size = thumbnail_url(paths[0])
            shown = view.before_only(paths[0].name, url, size)
        except DfosdError:
            shown = view.welcome()  # the reason is in the summary
        return shown, self.summary(files, *values)

    def summary(self, files: Any, *values: Any) -> str:
        """A line a file: its size and the result's, or why it cannot be done."""
        lines: list[str] = []
        problems: list[str] = []
        try:
            settings = controls.settings_of(values)
        except DfosdError as error:
            return view.summary([], [str(error)])
        for path in _paths(files):
            try:
                size = self.workplace.limits.check(path, settings)
                lines.append(view.size_line(path.name, size, settings.output_size(*size)))
            except DfosdError as error:
                problems.append(without_folder(str(error), path))
        if len(lines) > _SHOWN_LINES:
            lines[_SHOWN_LINES - 1 :] = [f"and {len(lines) - _SHOWN_LINES + 1} more"]
        return view.summary(lines, problems)

    def run(
        self, files: Any, base: str | None, lora: str | None, decoder: str | None, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Upscale. Yields what the outputs become: ticket, pairs, view, status, files, picker, two buttons."""
        paths = _paths(files)
        try:
            settings = controls.settings_of(values)
        except DfosdError as error:
            yield _outputs(status=view.summary([], [str(error)]))
            return
        if not paths:
            yield _outputs(status=view.summary([], ["Choose a picture first."]))
            return
        ticket, started = uuid.uuid4().hex, time.perf_counter()
        request = Request(settings=settings, base=base or "", lora=lora or "", decoder=decoder or FULL_DECODER)
        run = self._runs[ticket] = Run(self.workplace, request, paths)
        try:
            run.start()
            shown = 0
            for now in run.snapshots():
                changes: dict[str, Any] = {"status": view.progress(now, time.perf_counter() - started)}
                if len(now.pairs) > shown:
                    shown = len(now.pairs)
                    changes |= _finished(now.pairs)
                if now.is_over:
                    changes |= _offered(now.pairs, now.archive)
                yield _outputs(ticket=ticket, is_running=not now.is_over, **changes)
        finally:  # also when the page was closed
            run.stop()
            del self._runs[ticket]

    def stop(self, ticket: str | None) -> None:
        """End the run of this ticket within one tile."""
        if run := self._runs.get(ticket or ""):
            run.stop()

    def in_use(self) -> list[Path]:
        """The files and folders of runs that are not over."""
        return [path for run in list(self._runs.values()) for path in (*run.files, *run.folders)]

    def close(self) -> None:
        """Stop what is running, and wait until it has."""
        for run in list(self._runs.values()):
            run.stop()
            run.join()

    @staticmethod
    def show(pairs: list[Pair], name: str | None) -> Any:
        """The view of the result of this name."""
        return next((view.compare(pair) for pair in pairs if pair.result.name == name), gr.update())


def build_panel(
    engine: Engine,
    models: ModelLists | None,
    *,
    results: Path,
    previews: Path,
    keep: Path | None = None,
    limits: Limits | None = None,
    make_room: Callable[[int], None] = lambda _: None,
    prefix: str = "dfosd",
) -> Panel:
    """Draw the panel into the current `gr.Blocks` and connect it.

    `models`: None where there is nothing to choose. `results` and `previews`: existing folders, the first among those
    whose files Gradio may serve, as any in the system's temporary folder is. `keep`: gets a copy of each result.
    `make_room`: see `Workplace`.
    `prefix`: of the elements' ids, for a page that has the panel twice.
    """
    workplace = Workplace(
        engine=engine,
        results=results,
        previews=previews,
        keep=keep,
        limits=limits or Limits(),
        make_room=make_room,
    )
    panel = Panel(workplace)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            files = gr.File(
                label="Pictures", file_count="multiple", file_types=["image"], height=180, elem_id=f"{prefix}_files"
            )
            drawn = controls.draw_first(prefix)
            with gr.Row():
                start = gr.Button("Upscale", variant="primary", min_width=120, elem_id=f"{prefix}_start")
                stop = gr.Button("Stop", interactive=False, min_width=120, elem_id=f"{prefix}_stop")
            status = gr.HTML("", elem_id=f"{prefix}_status")
            drawn |= controls.draw_others(prefix)
            chosen = _draw_models(models, prefix)
        with gr.Column(scale=5, min_width=320):
            shown = gr.HTML(view.welcome(), elem_id=f"{prefix}_view")
            picker = gr.Dropdown(label="Show", choices=[], visible=False, elem_id=f"{prefix}_picker")
            offered = gr.File(
                label="Results", file_count="multiple", interactive=False, visible=False, elem_id=f"{prefix}_results"
            )
    ticket, pairs = gr.State(""), gr.State([])
    values = [drawn[name] for name in controls.ORDER]
    # In the queue: it decodes a picture, and who waits for that keeps nobody else from being answered.
    files.change(panel.look, [files, *values], [shown, status], show_progress="hidden")
    for control in values:
        control.change(panel.summary, [files, *values], [status], **_QUIET)
    outputs = [ticket, pairs, shown, status, offered, picker, start, stop]
    start.click(panel.run, [files, *chosen, *values], outputs, show_progress="hidden")
    stop.click(panel.stop, [ticket], [], **_QUIET)
    picker.input(panel.show, [pairs, picker], [shown], **_QUIET)
    return panel


def _draw_models(models: ModelLists | None, prefix: str) -> list[Any]:
    """Base, LoRA and decoder, and their refresh button; states that hold nothing where there is no choice."""
    if models is None:
        return [gr.State(""), gr.State(""), gr.State("")]
    lists = {"base": models.bases, "lora": models.loras, "decoder": models.decoders}

    def draw(name: str, label: str) -> Any:
        choices = list(lists[name]())
        return gr.Dropdown(label=label, choices=choices, value=choices[0], elem_id=f"{prefix}_{name}")

    with gr.Accordion("Model", open=False):
        base, lora = draw("base", "Base"), draw("lora", "LoRA")
        origin = gr.HTML(models.origin(lora.value), elem_id=f"{prefix}_origin")
        drawn = [base, lora, draw("decoder", "Decoder")]
        again = gr.Button("Look for new files", size="sm", elem_id=f"{prefix}_refresh")
    lora.change(models.origin, [lora], [origin], **_QUIET)
    again.click(lambda: [gr.update(choices=list(entries())) for entries in lists.values()], [], drawn, **_QUIET)
    return drawn


def _outputs(*, is_running: bool = False, ticket: str = "", **changes: Any) -> tuple[Any, ...]:
    """All outputs of a run, in order; what is not named stays as it is."""
    named = {name: gr.update() for name in ("pairs", "view", "status", "offered", "picker")} | changes
    return (ticket, *named.values(), gr.update(interactive=not is_running), gr.update(interactive=is_running))


def _finished(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Show the newest result, and let the others be chosen."""
    names = [pair.result.name for pair in pairs]
    return {
        "pairs": list(pairs),
        "view": view.compare(pairs[-1]),
        "picker": gr.update(choices=names, value=names[-1], visible=len(names) > 1),
    }


def _offered(pairs: Sequence[Pair], archive: Path | None) -> dict[str, Any]:
    """The results to download, the zip first."""
    files = [str(path) for path in ([archive] if archive else []) + [pair.result for pair in pairs]]
    return {"offered": gr.update(value=files or None, visible=bool(files))}


def _paths(files: Any) -> list[Path]:
    """What a File component hands over: strings, or in Gradio 3 temporary files."""
    return [Path(getattr(file, "name", file)) for file in files or []]
