"""Ray: the only package that schedules on it. Everything else sees `RayCluster`, its `Tasks` and `Job`."""

from ukd_dist.cluster.failures import Failure
from ukd_dist.cluster.ranks import GRACE_SECONDS
from ukd_dist.cluster.scheduler import RayCluster
from ukd_dist.cluster.tasks import Job, Outcome, Tasks
from ukd_dist.cluster.worker import STARTED_ON, current_node

__all__ = ["GRACE_SECONDS", "STARTED_ON", "Failure", "Job", "Outcome", "RayCluster", "Tasks", "current_node"]
