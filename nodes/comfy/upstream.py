"""What stands before a node's inputs in the workflow. The host says nothing else of an input that it has not loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def upstream(dynprompt: Any, node_id: str, names: Sequence[str]) -> str:
    """The nodes that the inputs `names` of a node come from, and their settings, as a text that can be compared.

    dynprompt: the host's DYNPROMPT, whose `get_node(id)` gives {"class_type": ..., "inputs": {...}}.
    """
    wanted = {name: value for name, value in dynprompt.get_node(node_id)["inputs"].items() if name in names}
    found: dict[str, Any] = {"": wanted}
    todo = _sources(wanted)
    while todo:
        source = todo.pop()
        if source not in found:
            node = dynprompt.get_node(source)
            found[source] = [node["class_type"], node["inputs"]]
            todo += _sources(node["inputs"])
    return json.dumps(found, sort_keys=True, default=str)


def _sources(inputs: dict[str, Any]) -> list[str]:
    """Ids of the nodes that these inputs are linked to; a link is [id, number of the output]."""
    return [value[0] for value in inputs.values() if isinstance(value, list) and len(value) == 2]
