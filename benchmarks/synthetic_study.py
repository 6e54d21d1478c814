"""Claim: which weighting of four teachers teaches a student best, where thousands of test rows are cheap.

Each seed draws its own world, 1,650 training rows, 20,020 test rows of other recordings, teachers and
students. A row is one clip as two feature vectors: rgb tells some classes apart and flow others, each
recording leaves a mark on both (stronger on rgb), and darkness adds noise, to rgb most. Teachers are two
architectures on each modality, regularised (`ordinary`) or trained until every row is known (`saturated`);
the student sees rgb.

Fixed beforehand: world, networks and recipes, by the accuracies of teachers and undistilled students on seeds
900-905, before any target was assembled; alpha at the paper's 0.5; and on the pilot seeds, for every arm
alike, the temperature and weight decay of the best mean accuracy on validation recordings, a fifth of the
training ones. Test rows choose nothing. Students of a seed share initial weights and batch order. Added after
the results of these `tuned` students were known: `light` ones, all at the least weight decay, with
temperatures from the same pilots.

Label smoothing of equal entropy: smoothing e makes the label (1-e) onehot + e/C; e is where its entropy is
the mean over training rows of H(alpha onehot + (1-alpha) softmax(target/tau)), target and tau those of the
pkd arm (`smoothing`), or with tau = 1, at which the student's loss is the cross entropy to just that label,
less a constant (`smoothing-1`). Arms in `-folds` take each row's opinions from the four teachers that did not
see it: five stratified random folds, so that K is 4 on every row of every arm and weight entropies compare
with ln 4.

Targets, weights and losses are `ukd_dist.method`'s. Prints one JSON line and keeps it, with every pilot and
run as soon as it ends, in benchmarks/results/synthetic_study.json; one that is there is not repeated: remove
the file to measure again.
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import chain, product
from typing import Any, NamedTuple

import torch
from record import RESULTS, commit, hardware, parser, save
from synthetic.networks import Networks, Recipe, scores, train
from synthetic.teachers import TEACHERS, Opinions, teach
from synthetic.world import CLASSES, TRAIN_GROUPS, Rows, draw
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.special import entr

from ukd_dist.method.assembly import Assembly
from ukd_dist.method.losses import distillation_loss
from ukd_dist.method.reference import observe
from ukd_dist.method.weighting import Space, Weighting

ALPHA, TAUS, WEIGHT_DECAYS = 0.5, (1.0, 2.0, 5.0, 20.0), (5e-3, 2e-2, 4e-2)
VALIDATION_GROUPS = 6  # of the training ones, in pilots
STUDENTS = {"tuned": WEIGHT_DECAYS, "light": WEIGHT_DECAYS[:1]}  # which weight decays they choose from
PILOT_SEEDS, SEEDS = range(100, 108), range(30)
T_975 = {29: 2.045}  # Student's t, two-sided 95%, by degrees of freedom
PLAIN = ("baseline", "smoothing", "smoothing-1")
TARGETS = ("avg", "avg2", "gtd", "pkd", "best", "entropy", "confidence", "avg-folds", "pkd-folds")
CONTRASTS = (
    *(("pkd", other) for other in ("avg", "gtd", "smoothing", "smoothing-1")),
    *(("pkd-folds", other) for other in ("pkd", "avg-folds", "smoothing", "smoothing-1")),
)
RESULT = RESULTS / "synthetic_study.json"


class Option(NamedTuple):
    arm: str
    temperature: float
    weight_decay: float


class Lesson(NamedTuple):
    """What a student learns beside its labels; without a target, labels alone, smoothed or not."""

    target_nc: Tensor | None = None
    space: Space = "logits"
    temperature: float = 1.0
    smoothing: float = 0.0
    weight_entropy: float | None = None


def main() -> None:
    parser(__doc__).parse_args()
    torch.set_num_threads(1)
    kept: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {"pilots": [], "runs": []}
    for condition in TEACHERS:
        for seed in PILOT_SEEDS:
            keep(kept, "pilots", condition, seed, pilot_options())
        students = [choose(kept["pilots"], condition, decays) for decays in STUDENTS.values()]
        for seed in SEEDS:
            keep(kept, "runs", condition, seed, list(chain(*students)))
    print(json.dumps({name: value for name, value in record(kept).items() if name not in ("pilots", "runs")}))


def keep(kept: dict[str, Any], kind: str, condition: str, seed: int, options: list[Option]) -> None:
    """Measures one seed and writes the file, unless it is there."""
    if any((run["condition"], run["seed"]) == (condition, seed) for run in kept[kind]):
        return
    began, (training, test) = time.monotonic(), draw(torch.Generator().manual_seed(3 * seed))
    if kind == "pilots":
        apart_n = training.groups_n >= TRAIN_GROUPS - VALIDATION_GROUPS
        training, test = training.where(~apart_n), training.where(apart_n)
    teachers, students = measure(condition, training, test, options, seed)
    run = {"condition": condition, "seed": seed, "seconds": round(time.monotonic() - began, 1)}
    found = {"accuracies": [s["accuracy"] for s in students]} if kind == "pilots" else {"students": students}
    kept[kind].append({**run, "commit": commit(), "teachers": teachers, **found})
    save(RESULT, record(kept), indent=None)


def pilot_options() -> list[Option]:
    arms = [(arm, TAUS if arm in ("smoothing", *TARGETS) else (1.0,)) for arm in (*PLAIN, *TARGETS)]
    return [Option(arm, tau, decay) for arm, taus in arms for tau, decay in product(taus, WEIGHT_DECAYS)]


def choose(pilots: list[dict[str, Any]], condition: str, decays: tuple[float, ...]) -> list[Option]:
    """Returns each arm's option of the best mean validation accuracy; `smoothing` has pkd's temperature."""
    found = [pilot["accuracies"] for pilot in pilots if pilot["condition"] == condition]
    means = dict(zip(pilot_options(), map(statistics.fmean, zip(*found, strict=True)), strict=True))
    chosen: dict[str, Option] = {}
    for arm in (*TARGETS, *PLAIN):
        taus = (chosen["pkd"].temperature,) if arm == "smoothing" else TAUS
        options = [o for o in means if o.arm == arm and o.temperature in taus and o.weight_decay in decays]
        chosen[arm] = max(options, key=means.__getitem__)
    return [chosen[arm] for arm in (*PLAIN, *TARGETS)]


def measure(
    condition: str, training: Rows, test: Rows, options: list[Option], seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns what the teachers and, option by option, the students came to."""
    seen, unseen, teachers = teach(condition, training, test, seed)
    students: dict[Option, dict[str, Any]] = {}
    for decay in WEIGHT_DECAYS:
        lessons = {o: lesson(o, training.labels_n, seen, unseen) for o in options if o.weight_decay == decay}
        if lessons:
            logits_enc = learn(list(lessons.values()), decay, training, test, seed)
            for (option, taught), logits_nc in zip(lessons.items(), logits_enc, strict=True):
                said = {"smoothing": taught.smoothing, "weight_entropy": taught.weight_entropy}
                students[option] = {**option._asdict(), **said, **scores(logits_nc, test.labels_n)}
    return teachers, [students[option] for option in options]


def lesson(option: Option, labels_n: Tensor, seen: Opinions, unseen: Opinions) -> Lesson:
    arm, tau, _ = option
    if arm == "baseline":
        return Lesson()
    if arm in PLAIN:
        target_nc, _ = assemble(Weighting(method="pkd"), seen, labels_n)
        return Lesson(smoothing=equal_smoothing(target_nc, labels_n, tau))
    settings: dict[str, Any] = {"method": arm.removesuffix("-folds")}
    if arm == "avg2":
        settings = {"method": "avg", "space": "probs", "temperature": tau}
    weighting = Weighting(**settings)
    target_nc, weight_entropy = assemble(weighting, unseen if arm.endswith("-folds") else seen, labels_n)
    return Lesson(target_nc, weighting.space, tau, weight_entropy=weight_entropy)


def assemble(weighting: Weighting, opinions: Opinions, labels_n: Tensor) -> tuple[Tensor, float]:
    """Returns the target, and the mean over rows of the entropy of the teachers' weights in nats."""
    reference_n = torch.full(labels_n.shape, -torch.inf, dtype=torch.float64)
    if weighting.compares:
        for logits_nc, covers_n in zip(*opinions, strict=True):
            observe(weighting, logits_nc, labels_n, reference_n, covers_n)
    assembly = Assembly(weighting, len(labels_n), CLASSES, reference_n=reference_n)
    for logits_nc, covers_n in zip(*opinions, strict=True):
        assembly.add(logits_nc, labels_n, covers_n)
    totals, reference = assembly.totals(), assembly.reference_n
    weights_kn = torch.stack([weighting.weights(z, labels_n, totals, reference) for z in opinions.logits_knc])
    return assembly.finish(), float(entr(weights_kn * opinions.covers_kn).sum(dim=0).mean())


def equal_smoothing(target_nc: Tensor, labels_n: Tensor, temperature: float) -> float:
    """Returns the label smoothing of equal entropy, by bisection; see the module's docstring."""
    soft_nc = (target_nc.double() / temperature).softmax(dim=1)
    label_nc = ALPHA * one_hot(labels_n, CLASSES) + (1.0 - ALPHA) * soft_nc
    wanted, low, high = entr(label_nc).sum(dim=1).mean(), 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        smoothed_c = (1.0 - middle) * one_hot(torch.tensor(0), CLASSES).double() + middle / CLASSES
        low, high = (middle, high) if entr(smoothed_c).sum() < wanted else (low, middle)
    return low


def learn(lessons: list[Lesson], weight_decay: float, training: Rows, test: Rows, seed: int) -> Tensor:
    """Returns the test logits [e, n, C] of a student of each lesson, alike in initial weights and batches."""
    kinds: dict[tuple[Any, ...], list[int]] = {}  # one call of the loss serves all lessons of a kind
    for number, (target_nc, *terms, _) in enumerate(lessons):
        kinds.setdefault((target_nc is None, *terms), []).append(number)

    def loss(logits_ebc: Tensor, rows_1b: Tensor) -> Tensor:
        return torch.stack(
            [group_loss(group, logits_ebc[group], rows_1b[0]) for group in kinds.values()]
        ).sum()

    def group_loss(group: list[int], logits_ebc: Tensor, rows_b: Tensor) -> Tensor:
        labels_b, logits_bc = training.labels_n[rows_b].repeat(len(group)), logits_ebc.flatten(0, 1)
        _, space, tau, smoothing, _ = lessons[group[0]]
        targets = [
            target_nc[rows_b] for target_nc, *_ in map(lessons.__getitem__, group) if target_nc is not None
        ]
        if not targets:
            return len(group) * cross_entropy(logits_bc, labels_b, label_smoothing=smoothing)
        target_bc = torch.cat(targets)
        return (
            len(group)
            * distillation_loss(
                logits_bc, labels_b, target_bc, alpha=ALPHA, temperature=tau, space=space
            ).total
        )

    generator = torch.Generator().manual_seed(3 * seed + 2)
    recipe = Recipe((64,), 20, weight_decay)
    networks = Networks(1, len(lessons), recipe, generator)
    rgb_enf = training.features_mnf[:1].expand(len(lessons), -1, -1)
    train(networks, recipe, rgb_enf, [torch.arange(len(training.labels_n))], generator, loss)
    logits_enc: Tensor = networks(test.features_mnf[:1].expand(len(lessons), -1, -1))
    return logits_enc


def record(kept: dict[str, Any]) -> dict[str, Any]:
    summaries = {}
    for condition in TEACHERS:
        runs = [run for run in kept["runs"] if run["condition"] == condition]
        if len(runs) == len(SEEDS):
            summaries[condition] = summary(runs)
    return {
        "claim": "students of several weightings over one set of teachers, paired by seed, on drawn features",
        "command": "python benchmarks/synthetic_study.py",
        "hardware": hardware(cores_used=1),
        "seeds": len(SEEDS),
        "summary": summaries,
        "pilots": kept["pilots"],
        "runs": kept["runs"],
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns means over seeds of one condition; differences of accuracies in points, with intervals."""
    arms = (*PLAIN, *TARGETS)
    found: dict[str, Any] = {name: means([run["teachers"][name] for run in runs]) for name in ("rgb", "flow")}
    for place, kind in enumerate(STUDENTS):
        students = {
            arm: [run["students"][place * len(arms) + number] for run in runs]
            for number, arm in enumerate(arms)
        }
        points = {arm: [100 * one["accuracy"] for one in entries] for arm, entries in students.items()}
        found[kind] = {
            arm: {**means(students[arm]), "to_baseline": paired(points[arm], points["baseline"])}
            for arm in arms
        }
        found[f"{kind}_contrasts"] = {f"{a} - {b}": paired(points[a], points[b]) for a, b in CONTRASTS}
    return found


def means(entries: list[dict[str, Any]]) -> dict[str, float]:
    names = [name for name, value in entries[0].items() if isinstance(value, float)]
    return {name: round(statistics.fmean(entry[name] for entry in entries), 4) for name in names}


def paired(ones: list[float], others: list[float]) -> dict[str, float]:
    """Returns the mean difference of pairs and half of its 95% t-interval."""
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    margin = T_975[len(differences) - 1] * statistics.stdev(differences) / len(differences) ** 0.5
    return {"mean": round(statistics.fmean(differences), 2), "margin_95": round(margin, 2)}


if __name__ == "__main__":
    main()
