"""``bom.cdx.json``: a CycloneDX 1.6 bill of materials of the model (ML-BOM). Source: https://cyclonedx.org/docs/1.6/json/.

The serial number is made from the content and there is no time unless one was given, so that equal releases have equal BOMs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from convert.text import shown

_SPACE = uuid.UUID("6f1e4f0e-8a51-5b0c-9d39-6d5f2f0f7a10")  # of this program's serial numbers


def bom(manifest: Mapping[str, Any]) -> bytes:
    """The file, from a manifest."""
    files = manifest["files"]
    tool, _, version = str(manifest["tool"]).partition(" ")
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest["name"],
        "version": f"sha256:{manifest['content_sha256']}",
    }
    if "license" in manifest:
        model["licenses"] = [{"license": {"name": shown(manifest["license"], 1000)}}]
    model["modelCard"] = {"bom-ref": "model-card", "modelParameters": {}, "properties": _properties(manifest)}
    if "architecture" in manifest:
        model["modelCard"]["modelParameters"] = {"modelArchitecture": manifest["architecture"]["name"]}
    model["pedigree"] = {
        "ancestors": [
            {
                "type": "file",
                "name": f"source {number}",
                "hashes": [_hash(one["sha256"])],
                "properties": _pairs({"bytes": one["bytes"]}),
            }
            for number, one in enumerate(manifest["source"]["files"], 1)
        ]
    }
    metadata: dict[str, Any] = {"timestamp": manifest["date"]} if "date" in manifest else {}
    metadata |= {"tools": {"components": [{"type": "application", "name": tool, "version": version}]}, "component": model}
    serial = json.dumps([manifest["name"], manifest["content_sha256"], [one["sha256"] for one in files]])
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, serial)}",
        "version": 1,
        "metadata": metadata,
        "components": [
            {
                "type": "file",
                "bom-ref": one["name"],
                "name": one["name"],
                "hashes": [_hash(one["sha256"])],
                "properties": _pairs({"format": one["format"], "bytes": one["bytes"]}),
            }
            for one in files
        ],
        "dependencies": [{"ref": "model", "dependsOn": [one["name"] for one in files]}],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _properties(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    facts = {
        "content_sha256": manifest["content_sha256"],
        "parameters": manifest["parameters"],
        "tensors": len(manifest["tensors"]),
        "tensor_bytes": manifest["tensor_bytes"],
        "dtypes": " ".join(manifest["dtypes"]),
        "source_format": manifest["source"].get("format", ""),
        "parity": manifest["verification"].get("parity", {}).get("verdict", ""),
    }
    return _pairs(facts)


def _pairs(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"ckpt-convert:{name}", "value": shown(value, 1000)} for name, value in facts.items()]


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}
