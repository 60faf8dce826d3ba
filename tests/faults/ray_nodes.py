"""Prepare on a Ray cluster of two nodes on loopback, one of which is killed during the run. A script, not a test.

    python ray_nodes.py VIDEOS OUT

Prints JSON: the number of nodes, whether one was killed, the error of a run whose tasks no node can hold, the statuses
that the listener received, the report, how many requests the nodes' shared rate limit granted, the result of a run that
fetches from a server and has a step, its requests, and the clips that the step saw.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from avdata.prepare.config import ExecutorKind, Supervision
from avdata.prepare.job import prepare
from avdata.prepare.ray_cluster import NAMESPACE, ClusterRateLimit, import_ray
from avmanifest.errors import ConfigError
from tests.faulty import failing
from tests.remote import remote_config
from tests.videos import Notes, folder_config

NODE = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}


class Counted:
    """A limit of five requests."""

    def __init__(self) -> None:
        self.left = 5

    def take(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 60.0


def draw(number: int) -> list[float]:
    """Take four requests from the shared limit, on a node."""
    rate_limit = ClusterRateLimit("test", Counted)
    return [rate_limit.take() for _ in range(4)]


class NodeKiller(Notes):
    """Kills the second node when the first shard of the run is done."""

    def __init__(self, cluster, victim) -> None:
        super().__init__()
        self.cluster, self.victim, self.killed = cluster, victim, False

    def step(self, name: str) -> None:
        if name.endswith(": done") and self.victim is not None:
            victim, self.victim = self.victim, None
            (raylet,) = victim.all_processes["raylet"]
            self.cluster.remove_node(victim, allow_graceful=False)
            self.killed = raylet.process.poll() is not None


def main(videos: Path, out: Path) -> None:
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # makes Ray listen on loopback only
    ray = import_ray()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    victim = cluster.add_node(**NODE)
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    try:
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        assert ray.get_runtime_context().get_node_id() == cluster.head_node.node_id, (
            "the driver must not run on the node that is killed"
        )
        budget = ClusterRateLimit("test", Counted)
        drawn = ray.get([ray.remote(num_cpus=1)(draw).remote(number) for number in range(2)])
        try:
            prepare(folder_config(videos, out, executor=ExecutorKind.RAY, supervision=Supervision(num_workers=2)))
            too_many = ""
        except ConfigError as error:
            too_many = str(error)
        killer = NodeKiller(cluster, victim)
        config = folder_config(videos, out, executor=ExecutorKind.RAY, supervision=Supervision(num_workers=1))
        report = prepare(config, killer)
        with failing((videos / "train" / "a" / "v0.mp4").read_bytes()) as server:
            fetching = remote_config(
                out.parent / "fetched",
                ["v0", "v1", ("v0", 0.1, 3.1)],
                f"http:{server.url}/{{id}}.mp4",
                executor=ExecutorKind.RAY,
                steps=("tests.steps:Chance",),
            )
            fetched = prepare(fetching)
            asked = dict(server.asked)
        print(
            json.dumps(
                {
                    "nodes": num_nodes,
                    "killed": killer.killed,
                    "too_many": too_many,
                    "granted": sum(wait_s == 0.0 for waits in drawn for wait_s in waits),
                    "refused": budget.take() > 0,
                    "statuses": killer.statuses,
                    "sources": report.sources,
                    "exit_code": report.exit_code,
                    "fetched": [fetched.ok, fetched.exit_code, asked, fetched.steps["chance"]["clips"]],
                }
            )
        )
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ray") as logs:
        os.environ["RAY_TMPDIR"] = logs
        main(Path(sys.argv[1]), Path(sys.argv[2]))
