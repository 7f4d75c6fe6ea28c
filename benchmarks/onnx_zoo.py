"""How many architectures get from a checkpoint to a proved ONNX file with one command, and why the others do not.

    python -m benchmarks.onnx_zoo [--only resnet] [--results build/onnx_zoo.jsonl] [--exporter torchscript] [--seconds 600]
    python -m benchmarks.onnx_zoo --report build/onnx_zoo.jsonl

Each net of `benchmarks.parity_nets` that comes from torchvision or timm is saved as a training checkpoint with ``module.`` keys and
converted by ``convert NAME.pth.tar --to onnx --input SIZE``: the command has to find out itself what it is. ``--arch`` names it where
``--named`` is given, and for nets built with arguments (``img_size=64``). A net is a line of the results as soon as it is done, and is
not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.parity_nets import NETS, build

ROOT = Path(__file__).parent.parent
# PyPI's torchvision beside a CPU torch needs a word before it is imported, in every process: see benchmarks/torchvision_cpu.py.
MENDING = """
import sys
class Mend:
    done = False
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not Mend.done:
            Mend.done = True
            from benchmarks.torchvision_cpu import mend
            mend()
sys.meta_path.insert(0, Mend())
"""


def convert(name: str, size: str, folder: Path, extra: list[str], timeout: float) -> dict[str, Any]:
    """One net through the command, as a user would."""
    source = folder / "net.pth.tar"
    net = build(name, size)
    arch = name.partition(":")[2].partition(",")[0]
    torch.save(
        {"epoch": 1, "arch": arch, "state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, source
    )
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(MENDING)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / "site"), str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "convert", str(source), "--to", "onnx", "--input", size, "--json", "--force", *extra]
    started = time.perf_counter()
    found: dict[str, Any] = {"net": name}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return found | {"exit": -1, "error": f"more than {timeout:g} s", "seconds": timeout}
    found |= {"exit": done.returncode, "seconds": round(time.perf_counter() - started, 1)}
    try:
        result = json.loads(done.stdout)["results"][0]
    except (ValueError, KeyError, IndexError):
        return found | {"error": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    if result.get("error"):
        return found | {"error": result["error"]["what"][:300], "kind": result["error"]["kind"]}
    output = result["outputs"][0]
    parity = output["parity"]
    export = parity["recipe"]["export"]
    scores = [score for run in parity["runs"] for score in run["scores"]]
    return found | {
        "verdict": output["verified"],
        "reason": parity["reason"],
        "ratio": max((score["ratio"] for score in scores if isinstance(score["ratio"], float)), default=0),
        "exporter": export["exporter"],
        "dynamic": export["dynamic"],
        "export_seconds": export["seconds"],
        "program": parity["recipe"]["program"]["source"],
        "probes": len(parity["probes"]),
    }


def report(lines: list[dict[str, Any]]) -> str:
    """The table and the success rate."""
    text = [
        "| net | outcome | exporter | batch open | worst ratio | s in all | s in the export |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        if "verdict" in line:
            export = line["export_seconds"].get("export", 0)
            text.append(
                f"| {line['net']} | {line['verdict']} | {line['exporter']} | {'yes' if line['dynamic'] else 'no'} | {line['ratio']:.2f} | "
                f"{line['seconds']} | {export:.1f} |"
            )
        else:
            text.append(f"| {line['net']} | {line.get('error', '')} (exit {line['exit']}) | | | | {line.get('seconds', '')} | |")
    proved = sum(line.get("verdict") == "proved" for line in lines)
    decided = [line for line in lines if line.get("verdict") == "inconclusive"]
    text += ["", f"{proved} of {len(lines)} proved, {len(decided)} inconclusive"]
    text += [f"inconclusive: {line['net']}: {line['reason']}" for line in decided]
    steps: dict[str, list[float]] = {}
    for line in lines:
        for step, seconds in line.get("export_seconds", {}).items():
            steps.setdefault(step, []).append(seconds)
    if steps:
        text.append("median seconds: " + ", ".join(f"{step} {sorted(each)[len(each) // 2]:g}" for step, each in steps.items()))
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="From a checkpoint to a proved ONNX file, over many architectures.")
    parser.add_argument("--only", default="", help="nets whose name has this text")
    parser.add_argument("--results", type=Path, default=Path("build/onnx_zoo.jsonl"))
    parser.add_argument("--report", type=Path, help="print the table of a file of results and run nothing")
    parser.add_argument("--exporter", help="this exporter alone")
    parser.add_argument("--named", action="store_true", help="name the architecture to the command")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no net after this time")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one net")
    chosen = parser.parse_args()
    if chosen.report:
        print(report([json.loads(line) for line in chosen.report.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    there = {json.loads(line)["net"] for line in chosen.results.read_text().splitlines()} if chosen.results.exists() else set()
    started = time.monotonic()
    for name, size in NETS.items():
        if name.startswith("own:") or chosen.only not in name or name in there or time.monotonic() - started > chosen.seconds:
            continue
        extra = ["--exporter", chosen.exporter] if chosen.exporter else []
        extra += ["--arch", name] if chosen.named or "," in name else []  # arguments of a constructor are not in the weights
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = convert(name, size, Path(folder), extra, chosen.timeout)
            except Exception as error:
                found = {"net": name, "exit": -1, "error": f"cannot be built: {type(error).__name__}: {str(error)[:200]}"}
        with chosen.results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(name, found.get("verdict") or found.get("error"), found.get("seconds"), flush=True)
    print(report([json.loads(line) for line in chosen.results.read_text().splitlines()]))


if __name__ == "__main__":
    main()
