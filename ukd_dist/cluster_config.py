"""What an experiment file may say of machines: what a process gets of them, and the cluster that they make.

As `config`, which declares the rest, this module only declares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ukd_dist.settings import Settings, SettingsError

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]


class Resources(Settings):
    """What Ray reserves for one process."""

    cpus: float = Field(1.0, gt=0, description="CPU cores; also the process's threads")
    gpus: float = Field(0.0, ge=0, description="GPUs, fractions allowed")
    memory_gib: float | None = Field(None, gt=0, description="host memory, GiB; null reserves none")
    decode: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="where clips are decoded; auto: on the process's GPU where it has one"
    )

    frame_cache_gib: float | None = Field(
        None,
        gt=0,
        description="host memory for a process's decoded training videos, GiB; null decodes clips one by one",
    )
    node_labels: dict[str, Label] = Field(
        default_factory=dict, description="run only on nodes with these labels (`ray start --labels`)"
    )
    priority: int = Field(0, description="who starts first: the higher one, then as the file has them")

    @model_validator(mode="after")
    def _several_gpus_are_whole(self) -> Resources:
        if self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus {self.gpus:g} is more than one and no whole number")
        return self

    @model_validator(mode="after")
    def _a_gpu_decodes_where_there_is_one(self) -> Resources:
        if self.decode == "gpu" and not self.gpus:
            raise SettingsError(
                "decode: gpu with gpus 0",
                expected="a GPU, or a share of one",
                action="set gpus, or decode: auto",
            )
        return self


class Cluster(Settings):
    """Where the work runs; no part of it changes a result."""

    address: str | None = Field(
        None,
        description="Ray address, or auto; default: the cluster of this Ray job, else a local one",
    )
    local_nodes: int = Field(1, ge=1, description="Ray nodes of a local cluster")
    cpus_per_node: int | None = Field(
        None, ge=1, description="of a local node; default: the cores shared equally"
    )
    max_failures: int = Field(
        3, ge=0, description="times that a lost process is started again; a teacher's always is"
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="longest time of a teacher's training without a checkpoint, minutes"
    )
    checkpoint_steps: int = Field(200, ge=1, description="most steps of a student without a checkpoint")
    checkpoints_kept: int = Field(2, ge=1, description="newest checkpoints of a training that are kept")
    rank_timeout_minutes: float = Field(
        30.0, gt=0, description="longest time that ranks wait for one of them, minutes"
    )
    network_interface: str | None = Field(
        None, min_length=1, description="by which ranks talk (NCCL, gloo), such as eth0; null: they choose"
    )
    reduce_rows: int | None = Field(
        None,
        ge=1,
        description="rows that one task of the reduction assembles; 1024s read no byte twice; "
        "default: 1024 to 8192, fewer for more classes",
    )
    keep_sums: bool = Field(
        True,
        description="keep each target's running sums: one of a teacher more or less then costs one; those of "
        "best and confidence, which serve no other target, never",
    )
    shard_cache: Path | None = Field(
        None,
        description="folder on each node's own disk, where its processes keep a copy of the shards and read "
        "them; null: they are read where they lie",
    )
    metrics_port: int | None = Field(
        0, ge=0, le=65535, description="of the exporter; 0: a free one; null: none"
    )

    @property
    def rank_environment(self) -> dict[str, str]:
        """What NCCL and gloo read in a rank's environment."""
        names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
        return {} if self.network_interface is None else dict.fromkeys(names, self.network_interface)

    @field_validator("shard_cache")
    @classmethod
    def _a_nodes_folder_is_absolute(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_absolute():
            raise SettingsError(
                f"shard_cache '{folder}' is no absolute path",
                expected="one that is good on every node; ~ and variables are not replaced",
                action="write it from / on",
            )
        return folder
