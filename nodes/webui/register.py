"""What the door of the WebUIs calls: every face of DFOSD there is registered here."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks  # pyright: ignore[reportMissingImports]

from .api import add_route
from .extras import DfosdExtras
from .files import make_folder
from .models import forget_models
from .options import add_options
from .tab import close_panels, draw_tab
from .upscaler import add_where_missing


def register() -> Any:
    """Called at each start and each "Reload UI", which clears all callbacks. Returns the Extras script's class."""
    make_folder()
    script_callbacks.on_ui_settings(add_options)
    script_callbacks.on_before_ui(add_where_missing)
    script_callbacks.on_ui_tabs(draw_tab)
    script_callbacks.on_app_started(add_route)
    script_callbacks.on_script_unloaded(close_panels)
    script_callbacks.on_script_unloaded(forget_models)
    return DfosdExtras
