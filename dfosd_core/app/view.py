"""What the panel shows as HTML: the before/after view, the progress bar, messages.

Gradio 3 and 4 have no comparing slider. This one is two pictures and a range input laid over them: mouse, touch and
arrow keys are the browser's own work, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..upscale_file import PHASES
from .preview import Pair, data_url
from .runner import Snapshot

_STYLE = """<style>
.html-container:has(> .prose .dfosd-view, > .prose .dfosd-status, > .prose .dfosd-empty) { padding: 0 !important; }
.dfosd-frame { position: relative; overflow: hidden; margin: 0 auto; border-radius: 8px; line-height: 0;
  max-width: min(100%, calc(76vh * var(--dfosd-width) / var(--dfosd-height)));
  aspect-ratio: var(--dfosd-width) / var(--dfosd-height);
  background: repeating-conic-gradient(#8883 0 25%, transparent 0 50%) 0 0 / 20px 20px; }
.dfosd-frame img { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; margin: 0; border: 0;
  border-radius: 0; object-fit: fill; }
.dfosd-frame .dfosd-before { clip-path: inset(0 calc(100% - var(--dfosd-at)) 0 0); }
.dfosd-frame .dfosd-after { clip-path: inset(0 0 0 var(--dfosd-at)); }
.dfosd-line { position: absolute; top: 0; bottom: 0; left: var(--dfosd-at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000a; pointer-events: none; }
.dfosd-line::after { content: "\\2039\\00a0\\203a"; position: absolute; top: 50%; left: 50%; width: 36px; height: 36px;
  margin: -18px 0 0 -18px; border-radius: 50%; background: #fff; color: #333; box-shadow: 0 1px 4px #0008;
  font: 600 20px/32px system-ui, sans-serif; text-align: center; }
.dfosd-tag { position: absolute; bottom: 10px; padding: 3px 9px; border-radius: 5px; background: #000a;
  color: #fff !important; font: 500 12px/1.4 system-ui, sans-serif; pointer-events: none; }
.dfosd-frame input[type=range] { position: absolute; top: 0; left: -22px; width: calc(100% + 44px); height: 100%;
  max-width: none; margin: 0; padding: 0; border: 0; background: none; opacity: 0; cursor: ew-resize;
  -webkit-appearance: none; appearance: none; touch-action: pan-y; }
.dfosd-frame input[type=range]::-webkit-slider-runnable-track { height: 100%; }
.dfosd-frame input[type=range]::-webkit-slider-thumb { -webkit-appearance: none; width: 44px; height: 100%; }
.dfosd-frame input[type=range]::-moz-range-thumb { width: 44px; height: 100%; border: 0; }
.dfosd-frame input[type=range]:focus-visible { outline: none; }
.dfosd-frame:has(input:focus-visible) { outline: 2px solid var(--color-accent, #2563eb); outline-offset: 2px; }
.dfosd-zoomed .dfosd-scroll { overflow: auto; max-height: 76vh; }
.dfosd-zoomed .dfosd-frame { width: calc(var(--dfosd-width) * 1px); max-width: none; border-radius: 0; }
.dfosd-zoomed .dfosd-frame input[type=range] { pointer-events: none; }
.dfosd-zoomed .dfosd-frame input[type=range]::-webkit-slider-thumb { pointer-events: auto; }
.dfosd-zoomed .dfosd-frame input[type=range]::-moz-range-thumb { pointer-events: auto; }
.dfosd-caption { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: center; margin-top: 8px;
  font: 14px/1.5 system-ui, sans-serif; color: var(--body-text-color, inherit); }
.dfosd-caption b { font-weight: 600; overflow-wrap: anywhere; }
.dfosd-caption button { margin-left: auto; padding: 2px 12px !important; border-radius: 6px !important;
  cursor: pointer; font: inherit !important; border: 1px solid var(--border-color-primary, #8886) !important;
  background: none !important; color: inherit !important; }
.dfosd-zoomed .dfosd-caption button { background: var(--border-color-primary, #8884) !important; }
.dfosd-notes { margin: 6px 0 0; padding: 6px 10px; border-left: 3px solid #d97706; border-radius: 3px;
  background: #d9770618; font: 14px/1.5 system-ui, sans-serif; color: var(--body-text-color, inherit); }
.dfosd-notes p { margin: 0; overflow-wrap: anywhere; }
.dfosd-empty { display: grid; place-items: center; min-height: 300px; padding: 24px; border-radius: 8px;
  border: 1px dashed var(--border-color-primary, #8886); text-align: center; font: 15px/1.6 system-ui, sans-serif;
  color: var(--body-text-color-subdued, #888); }
.dfosd-status { font: 14px/1.5 system-ui, sans-serif; color: var(--body-text-color, inherit); }
.dfosd-status p { margin: 6px 0 0; overflow-wrap: anywhere; }
.dfosd-bar { height: 10px; border-radius: 5px; overflow: hidden; background: var(--border-color-primary, #8884); }
.dfosd-bar div { height: 100%; border-radius: 5px; background: var(--color-accent, #2563eb); }
.dfosd-problem { padding: 6px 10px; border-left: 3px solid #dc2626; border-radius: 3px; background: #dc262618; }
</style>"""

_NAMED = 5
"""So many files with notes are named, the others counted."""


def welcome() -> str:
    """Before anything was uploaded."""
    return f'{_STYLE}<div class="dfosd-empty">Drop a picture into the box and press Upscale.</div>'


def compare(pair: Pair) -> str:
    """The before/after view of a finished file."""
    height, width = pair.preview_size
    name = escape(pair.name)
    reduced = "" if pair.preview_size == pair.size_after else f"<span>shown at {width}×{height}</span>"
    return f"""{_STYLE}<div class="dfosd-view"><div class="dfosd-scroll">
<div class="dfosd-frame" style="--dfosd-at:50%;--dfosd-width:{width};--dfosd-height:{height}">
<img class="dfosd-after" src="{data_url(pair.after.read_bytes())}" alt="{name}, upscaled" draggable="false">
<img class="dfosd-before" src="{data_url(pair.before.read_bytes())}" alt="{name}, before" draggable="false">
<span class="dfosd-tag" style="left:10px">before</span><span class="dfosd-tag" style="right:10px">after</span>
<div class="dfosd-line"></div>
<input type="range" min="0" max="100" step="0.1" value="50" aria-label="Where before ends and after begins"
 oninput="this.parentNode.style.setProperty('--dfosd-at', this.value + '%')"></div></div>
<div class="dfosd-caption"><b>{name}</b><span>{_sizes(pair.size_before, pair.size_after)}</span>
<span>{_duration(pair.seconds)}</span>{reduced}
<button type="button" onclick="this.closest('.dfosd-view').classList.toggle('dfosd-zoomed')">1:1</button></div>
{_notes(pair.notes)}</div>"""


def before_only(name: str, url: str, size: tuple[int, int]) -> str:
    """The view of an input that has not been upscaled yet."""
    height, width = size
    return f"""{_STYLE}<div class="dfosd-view"><div class="dfosd-frame"
 style="--dfosd-width:{width};--dfosd-height:{height}"><img src="{url}" alt="{escape(name)}"></div></div>"""


def summary(lines: Sequence[str], problems: Sequence[str]) -> str:
    """Under the uploaded files: what will become of them, and what is wrong with them."""
    return _status("".join(f"<p>{escape(line)}</p>" for line in lines) + _problems(problems))


def size_line(name: str, before: tuple[int, int], after: tuple[int, int]) -> str:
    """For `summary`."""
    return f"{name}: {_sizes(before, after)}"


def progress(now: Snapshot, seconds: float) -> str:
    """The bar over all tiles of all files, and a line about them; at the end, how it went."""
    percent = round(100 * now.fraction)
    bar = (
        f'<div class="dfosd-bar" role="progressbar" aria-label="Upscaling" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width:{percent}%"></div></div>'
    )
    line = f"<p>{escape(_line(now, seconds))}</p>"
    return _status(("" if now.is_over else bar) + line + _problems(now.problems) + _about_notes(now))


def _line(now: Snapshot, seconds: float) -> str:
    done, took = len(now.pairs), _duration(seconds)
    if now.state == "waiting":
        return "Waiting until another run has ended."
    if now.state == "loading":
        return f"Loading the model, {took}."
    if now.state == "running":
        which = f"{now.name} ({done + len(now.problems) + 1} of {now.files})" if now.files > 1 else now.name
        tiles = now.progress
        what = f"{PHASES[tiles.phase]}, {tiles.done} of {tiles.total} tiles" if tiles else "opening"
        return f"{round(100 * now.fraction)} % · {which} · {what} · {took}"
    if now.state == "stopped":
        return f"Stopped after {took}. " + (
            f"{done} of {now.files} are done." if now.files > 1 else "Nothing was kept."
        )
    if done == now.files:
        return f"Done in {took}."
    return f"{done} of {now.files} are done, {took}." if now.files > 1 else "Nothing was made."


def _notes(lines: Sequence[str]) -> str:
    inside = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="dfosd-notes" role="note">{inside}</div>' if inside else ""


def _about_notes(now: Snapshot) -> str:
    """Of several files, which have notes beside their result; of one, that is in sight."""
    names = [pair.name for pair in now.pairs if pair.notes]
    if now.files < 2 or not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return _notes([f"See the notes beside {', '.join(names[:_NAMED])}{more}."])


def _problems(lines: Sequence[str]) -> str:
    return "".join(f'<p class="dfosd-problem">{escape(line)}</p>' for line in lines)


def _status(inside: str) -> str:
    return f'{_STYLE}<div class="dfosd-status" aria-live="polite">{inside}</div>' if inside else ""


def _sizes(before: tuple[int, int], after: tuple[int, int]) -> str:
    return f"{before[1]}×{before[0]} → {after[1]}×{after[0]}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
