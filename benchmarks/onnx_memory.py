"""Memory of an ONNX export over what its imports hold, for nets of torchvision with realistic weights.

    python -m benchmarks.onnx_memory [--nets resnet18 resnet50 vit_b_16] [--limit 150] [--json FILE]

Each net is saved and exported by the command in a process of its own, which tells its resident memory after imports and its peak after
them. Prints a table; the exit code is 1 where a net is above the limit or was exported with its weights in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.onnx_zoo import MENDING, ROOT

NETS = ("resnet18", "resnet50", "vit_b_16")
SIZE = "1x3x224x224"
SAVE = """
import sys
import torch, torchvision
from benchmarks.realistic import fill
from convert.parity.inputs import parse
torch.set_num_threads(1)
net = fill(torchvision.models.get_model(sys.argv[1], weights=None), [parse(sys.argv[2])])
torch.save(net.state_dict(), sys.argv[3])
"""


def measure(net: str, folder: Path) -> dict[str, Any]:
    """One net: MB of weights, resident after imports, peak over them."""
    (folder / "sitecustomize.py").write_text(MENDING)
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))
    source = folder / f"{net}.pth"
    subprocess.run([sys.executable, "-c", SAVE, net, SIZE, str(source)], env=environment, check=True)
    command = [sys.executable, "-m", "convert", str(source), "--to", "onnx", "--input", SIZE, "--no-run", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    output = json.loads(done.stdout)["results"][0]["outputs"][0]
    export = output["parity"]["recipe"]["export"]
    memory = export["memory"] or {"after imports": 0.0, "peak": 0.0}
    return {
        "net": net, "weights_mb": round(source.stat().st_size / 1e6, 1), "verified": output["verified"],
        "weightless": export["weightless"], "imports_mb": memory["after imports"],
        "over_mb": round(memory["peak"] - memory["after imports"], 1), "seconds": export["seconds"],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| net | weights, MB | after imports, MB | peak over them, MB |", "|---|---|---|---|"]
    for row in rows:
        over = f"{row['over_mb']:.0f}" if row["weightless"] else "with its weights"
        lines.append(f"| {row['net']} | {row['weights_mb']:.0f} | {row['imports_mb']:.0f} | {over} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of an ONNX export over its imports.")
    parser.add_argument("--nets", nargs="+", default=list(NETS))
    parser.add_argument("--limit", type=float, default=150.0, help="MB over the imports")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    for net in chosen.nets:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(net, Path(folder)))
    print(table(rows))
    if chosen.json:
        chosen.json.write_text(json.dumps({"limit_mb": chosen.limit, "rows": rows}, indent=1) + "\n")
    return int(any(not row["weightless"] or not 0 < row["over_mb"] <= chosen.limit for row in rows))


if __name__ == "__main__":
    sys.exit(main())
