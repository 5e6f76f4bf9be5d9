"""WebUI's door. The host runs this file at each start and each "Reload UI"; everything is in `nodes/webui`.

The checkout is a package of a name of its own: nothing is looked up on sys.path, so nothing can stand in its way.
"""

import importlib.util
import logging
import sys
from pathlib import Path

_root = str(Path(__file__).absolute().parents[1])
if "dfosd_webui_extension" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "dfosd_webui_extension", f"{_root}/__init__.py", submodule_search_locations=[_root]
    )
    assert _spec is not None
    sys.modules["dfosd_webui_extension"] = importlib.util.module_from_spec(_spec)
_used = sys.modules["dfosd_webui_extension"].__path__[0]
if _used == _root:
    DfosdExtras = importlib.import_module("dfosd_webui_extension.nodes.webui.register").register()
else:
    logging.getLogger("dfosd").warning("DFOSD is here twice: %s is used, %s is not. Remove one.", _used, _root)
