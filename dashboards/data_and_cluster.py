"""The dashboard of what all members share: clips, logits, the object store, nodes and the disk."""

from __future__ import annotations

from dashboards.panels import RATE, Dashboard, Panel, Query, one

_DATA = (
    one(
        "How many clips are decoded a second?",
        "Clips that trainings decoded and used, by stage, over all their processes.",
        "suffix: clips/s",
        f'sum by (stage) (rate(ukd_clips_total{{run="$run"}}[{RATE}]))',
        "{{stage}}",
    ),
    one(
        "What share of a step is spent waiting for clips?",
        "By stage, over all its processes. Above a third decoding is what limits the training.",
        "percentunit",
        f'sum by (stage) (rate(ukd_data_wait_seconds_total{{run="$run"}}[{RATE}]))'
        f' / sum by (stage) (rate(ukd_step_seconds_sum{{run="$run"}}[{RATE}]))',
        "{{stage}}",
        most=1,
    ),
    one(
        "How many videos were rejected, and why?",
        "By sharding, since they could not be decoded as they should; shards/rejects.jsonl lists them.",
        "short",
        'max by (reason) (ukd_rejected_samples_total{run="$run"})'
        ' or on () label_replace(vector(0), "reason", "none", "", "")',
        "{{reason}}",
        kind="stacked",
    ),
    Panel(
        "What share of the videos was rejected?",
        "Of those that the lists name. Above the limit, data.max_rejected, sharding fails.",
        "percentunit",
        [
            Query(
                '(sum(max by (reason) (ukd_rejected_samples_total{run="$run"})) or vector(0))'
                ' / max(ukd_listed_samples{run="$run"})',
                "rejected",
            ),
            Query('max(ukd_rejected_limit_ratio{run="$run"})', "limit"),
        ],
    ),
    one(
        "How fast are logits read?",
        "Bytes of teachers' logits that the reduction reads a second.",
        "Bps",
        f'sum(rate(ukd_reduce_logits_bytes_total{{run="$run"}}[{RATE}]))',
        "logits",
    ),
    one(
        "How many logits were read?",
        "Bytes since the run began; a target of a teacher more reads that teacher's alone.",
        "bytes",
        'max(ukd_reduce_logits_bytes_total{run="$run"})',
        "logits",
    ),
)

_CLUSTER = (
    one(
        "How busy are the nodes' CPUs?",
        "All processes of a node, by Ray.",
        "percent",
        'max by (instance) (ray_node_cpu_utilization{run="$run"})',
        "{{instance}}",
        most=100,
    ),
    one(
        "How full is the nodes' memory?",
        "In use over all of it, whoever uses it. At 95% Ray ends a process to save the node.",
        "percentunit",
        'max by (instance) (ray_node_mem_used{run="$run"})'
        ' / max by (instance) (ray_node_mem_total{run="$run"})',
        "{{instance}}",
        most=1,
    ),
    one(
        "What does Ray's object store hold?",
        "Bytes by place. What travels through Ray is small here: `SPILLED` should stay 0.",
        "bytes",
        'sum by (Location) (ray_object_store_memory{run="$run"})',
        "{{Location}}",
        kind="stacked",
    ),
    one(
        "How much room is left in Ray's object store?",
        "By node.",
        "bytes",
        'max by (instance) (ray_object_store_available_memory{run="$run"})',
        "{{instance}}",
    ),
    one(
        "How much room is left on the disk?",
        "Where the run directory lies.",
        "bytes",
        'max(ukd_disk_free_bytes{run="$run"})',
        "free",
    ),
    one(
        "How full is the disk?",
        "Where the run directory lies, whoever fills it. `ukd gc ROOT` drops what nothing needs.",
        "percentunit",
        '1 - max(ukd_disk_free_bytes{run="$run"}) / max(ukd_disk_size_bytes{run="$run"})',
        "full",
        most=1,
    ),
)

DATA_AND_CLUSTER = Dashboard(
    "data_and_cluster",
    "ukd: Data and cluster",
    "Whether clips, logits, nodes and the disk keep up with the trainings.",
    (*_DATA, *_CLUSTER),
)
