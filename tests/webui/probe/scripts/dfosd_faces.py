"""Routes to DFOSD's script in Extras and to its tab, as a click would start them."""

import inspect
from pathlib import Path
from typing import Any

from dfosd_probe_host import add_routes, part
from fastapi import Body
from modules import postprocessing, scripts


def extras_folder(
    source: str = Body(..., embed=True),
    target: str = Body(..., embed=True),
    values: dict[str, Any] = Body(..., embed=True),  # noqa: B008
) -> dict[str, str]:
    """Extras > Batch from Directory, with DFOSD ticked."""
    arguments = scripts.scripts_postproc.create_args_for_run({"DFOSD": {"enable": True, **values}})
    for script in scripts.scripts_postproc.scripts_in_preferred_order():
        if script.name != "DFOSD":  # as the page has them at first
            for number, control in enumerate(script.controls.values()):
                arguments[script.args_from + number] = getattr(control, "value", None)
    run = postprocessing.run_postprocessing
    # Forge Neo and SD.Next have one more, a video.
    named = {"extras_mode": 2, "input_dir": source, "output_dir": target, "show_extras_results": True}
    parameters = inspect.signature(run).parameters.values()
    leading = [named.get(each.name) for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    return {"said": next(each for each in run(*leading, *arguments) if isinstance(each, str))}


def tab(
    source: str = Body(..., embed=True),
    target: str = Body(..., embed=True),
    lora: str = Body(..., embed=True),
    scale: float = Body(..., embed=True),
) -> list[int]:
    """One file through the tab's engine."""
    request = part("dfosd_core.app.runner").Request(
        settings=part("dfosd_core.settings").UpscaleSettings(scale=scale), lora=lora
    )
    with part("nodes.webui.tab").engine(request) as upscale_file:
        return list(upscale_file(Path(source), Path(target), lambda _: None))


add_routes(extras_folder, tab)
