"""Two Ray nodes on loopback, a migration on them, one node killed half-way. Run by `test_ray` inside a network namespace of its own.

    python ray_cluster.py SOURCE DESTINATION CHECKPOINTS

Prints one JSON document: the command's exit code, what it said, and how many checkpoints were through when the node died.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.command import argv, environment


def main(source: str, destination: str, checkpoints: int) -> None:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(wait=True, **{key: value for key, value in node.items() if key != "node_ip_address"})
    process = subprocess.Popen(
        [*argv(), "migrate", source, destination, "--to", "safetensors", "--engine", "ray", "--ray-address", cluster.address, "--events"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    through = 0
    events, odd = [], []
    assert process.stdout is not None
    for line in process.stdout:
        try:
            events.append(json.loads(line))
        except ValueError:  # standard output is for data: the test refuses this
            odd.append(line)
            continue
        through += events[-1]["event"] == "row"
        if through == checkpoints // 3 and second is not None:
            cluster.remove_node(second, allow_graceful=False)
            second = None
    code = process.wait()
    assert process.stderr is not None
    told = {
        "exit": code,
        "killed": second is None,
        "end": events[-1] if events else None,
        "odd": odd,
        "errors": process.stderr.read(),
    }
    print("RESULT " + json.dumps(told))
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
