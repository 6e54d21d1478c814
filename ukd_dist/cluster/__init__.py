"""Ray: the only package that schedules on it. Everything else sees `RayCluster` and `Job`."""

from ukd_dist.cluster.scheduler import Job, Outcome, RayCluster

__all__ = ["Job", "Outcome", "RayCluster"]
