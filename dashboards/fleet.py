"""The fleet's dashboard: how far the teachers are, what they cost, what becomes of them."""

from __future__ import annotations

from dashboards.panels import GPU_PANELS, Dashboard, Panel, Query, Variable, one

_PROGRESS = (
    one(
        "What share of the epochs is done?",
        "Finished epochs of all teachers, and of all students, over those that the experiment asks for. "
        "It falls only when the experiment asks for more, or something is made again.",
        "percentunit",
        'max by (kind) (ukd_member_epochs_total{run="$run"})'
        ' / (max by (kind) (ukd_member_epochs_asked{run="$run"}) > 0)',
        "{{kind}}s",
        kind="number",
        width=6,
    ),
    one(
        "How long until the fleet is trained?",
        "The teachers' epochs to come, at the pace so far and as many at once as run now. "
        "Nothing until the first epoch is finished.",
        "s",
        'max(ukd_remaining_seconds{run="$run"})',
        "remaining",
        kind="number",
        width=6,
    ),
    one(
        "How long ago did a member make a step?",
        "Of the teachers, and of the students, that run: since any of them made a step or captured logits. "
        "Seconds are normal; copying shards or a step of a large network take minutes.",
        "s",
        'time() - max by (kind) (ukd_progress_timestamp_seconds{run="$run"})',
        "{{kind}}s",
        kind="number",
        width=6,
    ),
    one(
        "How many epochs are finished an hour?",
        "Over all teachers, and over all students, at the pace of the latest 15 minutes.",
        "suffix: epochs/h",
        '3600 * sum by (kind) (rate(ukd_member_epochs_total{run="$run"}[15m]))',
        "{{kind}}s",
        kind="number",
        width=6,
    ),
)

_STATES = (
    one(
        "How many teachers are in which state?",
        "`failed` were set aside: `ukd status` says why, and the next `ukd run` tries them anew. "
        "`interrupted` ones go on when the command is run again.",
        "short",
        'max by (state) (ukd_teachers{run="$run"})',
        "{{state}}",
        kind="stacked",
    ),
    one(
        "How many students are in which state?",
        "As for teachers; students are trained one after the other.",
        "short",
        'max by (state) (ukd_students{run="$run"})',
        "{{state}}",
        kind="stacked",
    ),
    one(
        "How well is the cluster packed?",
        "Teachers that run over the most that ran at once in the time that is shown. "
        "Low while many wait: nodes are gone, or what a teacher reserves does not fit beside the others.",
        "percentunit",
        'max(ukd_teachers{run="$run", state="running"})'
        ' / clamp_min(max(max_over_time(ukd_teachers{run="$run", state="running"}[$__range] @ end())), 1)',
        "running / most that ran",
        most=1,
    ),
    one(
        "How did attempts at members end?",
        "`done` is as it should be; of each other outcome docs/operating.md says what to do.",
        "short",
        'max by (outcome) (ukd_attempts_total{run="$run"})'
        ' or on () label_replace(vector(0), "outcome", "none ended", "", "")',
        "{{outcome}}",
        kind="stacked",
    ),
)

_COSTS = (
    one(
        "How long does an epoch of each teacher take?",
        "Its latest epoch. One that takes longer than others of its network is on a slower or busier node.",
        "s",
        'max by (member) (ukd_epoch_seconds{run="$run", stage="teach", member=~"$member"})',
        "{{member}}",
    ),
    Panel(
        "How much memory does each teacher take?",
        "Peak of its process: `host` resident memory, `cuda` what it allocated on its GPU. "
        "The limit is the smallest of a chosen teacher: what it reserved, or all of its machine or GPU.",
        "bytes",
        [
            Query(
                "max by (member, device)"
                ' (ukd_memory_peak_bytes{run="$run", stage="teach", member=~"$member"})',
                "{{member}} {{device}}",
            ),
            Query(
                'min by (device) (ukd_memory_limit_bytes{run="$run", stage="teach", member=~"$member"})',
                "limit {{device}}",
            ),
        ],
    ),
    one(
        GPU_PANELS[0],
        "Share of the time in which any kernel ran, by Ray. Low where clips are waited for.",
        "percent",
        'max by (instance, GpuIndex) (ray_node_gpus_utilization{run="$run"})',
        "{{instance}} GPU {{GpuIndex}}",
        most=100,
    ),
    one(
        GPU_PANELS[1],
        "Memory in use over all of it, whoever uses it, by Ray.",
        "percentunit",
        'max by (instance, GpuIndex) (ray_node_gram_used{run="$run"})'
        ' / (max by (instance, GpuIndex) (ray_node_gram_used{run="$run"})'
        ' + max by (instance, GpuIndex) (ray_node_gram_available{run="$run"}))',
        "{{instance}} GPU {{GpuIndex}}",
        most=1,
    ),
)

FLEET = Dashboard(
    "fleet",
    "ukd: Fleet",
    "How far the teachers are, what they cost, and what became of those that failed.",
    (*_PROGRESS, *_STATES, *_COSTS),
    (
        Variable(
            "member", "Teachers", 'label_values(ukd_epoch{run="$run", stage="teach"}, member)', several=True
        ),
    ),
)
