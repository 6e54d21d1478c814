"""Ray nodes on this machine, where no cluster is named."""

from __future__ import annotations

import os
from typing import Any

from ukd_dist.cluster_config import Cluster

# A task that is killed for memory would be tried for ever.
_RAY_SETTINGS = {"RAY_task_oom_retries": "3"}


class LocalNodes:
    """One or more Ray nodes of this machine, started at once.

    Args:
        settings: Nodes, and CPUs of each.

    Attributes:
        address: Of the cluster that they form.
    """

    def __init__(self, settings: Cluster) -> None:
        from ray.cluster_utils import Cluster as RayNodes

        for name, value in _RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        cores = len(os.sched_getaffinity(0))
        cpus = settings.cpus_per_node or max(1, cores // settings.local_nodes)
        self._nodes: Any = RayNodes()
        try:
            self._nodes.add_node(num_cpus=cpus, num_gpus=_count_gpus(), include_dashboard=False)
            for _ in range(settings.local_nodes - 1):
                self._nodes.add_node(num_cpus=cpus, num_gpus=0)  # the machine's GPUs are the first node's
        except Exception:
            self.shutdown()
            raise
        self.address: str = self._nodes.address

    def shutdown(self) -> None:
        """Stop the nodes and everything on them."""
        self._nodes.shutdown()


def _count_gpus() -> int:
    """GPUs that this process may use: `ray.cluster_utils` looks for none by itself."""
    import torch

    return torch.cuda.device_count()
