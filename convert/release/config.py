"""``config.json`` in the form of timm's models on the hub: `timm.create_model('local-dir:FOLDER', pretrained=True)` reads it.

``timm.models.save_for_hf`` would write its default configuration too: tag, licence, mean and standard deviation of weights of its own. Here
stands only what is known of these: the architecture, its arguments and its number of classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def config(manifest: Mapping[str, Any]) -> bytes | None:
    """The file, or None where the architecture is not known."""
    known = manifest.get("architecture")
    if not known:
        return None
    document: dict[str, Any] = {"architecture": known["model"]}
    if "classes" in known:
        document["num_classes"] = known["classes"]
    if known["library"] == "timm":
        if known.get("arguments"):
            document["model_args"] = known["arguments"]
        document["pretrained_cfg"] = {"num_classes": known["classes"]} if "classes" in known else {}
    else:
        document["library_name"] = known["library"]
        if known.get("arguments"):
            document["arguments"] = known["arguments"]
    return (json.dumps(document, indent=2) + "\n").encode()
