"""The method as its papers write it, in plain numpy.

Equations are numbered as in Jin et al., Unlimited Knowledge Distillation. `entropy` is Kwon et al., Adaptive
Knowledge Distillation Based on Entropy, as Zhang et al. compare with it; `confidence` is Zhang et al.,
Confidence-Aware Multi-Teacher Knowledge Distillation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_softmax(logits: Array, temperature: float = 1.0) -> Array:
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    return np.exp(log_softmax(logits, temperature))


def cross_entropy(p: Array, q_logits: Array) -> float:
    """Of the distribution softmax(q_logits) relative to p; 0 * log 0 = 0."""
    log_q = log_softmax(q_logits)
    return float(-sum(p[i] * log_q[i] for i in range(len(p)) if p[i] > 0))


def entropy(p: Array) -> float:
    return float(-sum(x * np.log(x) for x in p if x > 0))


def ground_truth_distribution(label: int, num_classes: int) -> Array:
    return np.eye(num_classes)[label]


def preferred_distribution(label: int, num_classes: int, h: float) -> Array:
    """Eq. 11."""
    pkd = np.full(num_classes, (1 - h) / (num_classes - 1))
    pkd[label] = h
    return pkd


def similarity(method: str, logits: Array, label: int, h: float, floor: float) -> float:
    """s_nk: Eq. 12, Eq. 8 or, for an average, 1."""
    if method == "pkd":
        return 1 / cross_entropy(preferred_distribution(label, len(logits), h), logits)
    if method == "gtd":
        return 1 / max(cross_entropy(ground_truth_distribution(label, len(logits)), logits), floor)
    return 1.0


def weights(
    method: str, logits_kc: Array, label: int, *, h: float = 0.99, floor: float = 1e-4, least: float = 1e-8
) -> Array:
    """What each teacher of one video counts, sum 1.

    `floor` is the least cross entropy of gtd, `least` the least entropy of `entropy`, and teachers within
    1e-9 of the best share it; all in nats and ours.
    """
    truth = ground_truth_distribution(label, logits_kc.shape[1])
    ce_k = np.array([cross_entropy(truth, logits_c) for logits_c in logits_kc])
    if method == "best":
        best_k = ce_k <= ce_k.min() + 1e-9
        return np.asarray(best_k / best_k.sum())
    if method == "entropy":
        return complements(np.array([max(entropy(softmax(logits_c)), least) for logits_c in logits_kc]))
    if method == "confidence":
        return complements(softmax(ce_k))
    s_k = np.array([similarity(method, logits_c, label, h, floor) for logits_c in logits_kc])
    return np.asarray(s_k / s_k.sum())


def complements(doubt_k: Array) -> Array:
    """(1 - a_k / sum_j a_j) / (K - 1); one teacher counts 1."""
    if len(doubt_k) == 1:
        return np.ones(1)
    return np.asarray((1 - doubt_k / doubt_k.sum()) / (len(doubt_k) - 1))


def target(
    logits_knc: Array,
    labels_n: NDArray[np.int64],
    covers_kn: NDArray[np.bool_] | None = None,
    *,
    method: str,
    h: float = 0.99,
    floor: float = 1e-4,
    temperature: float | None = None,
) -> Array:
    """Eq. 9, of logits, or of probabilities if there is a temperature, over the teachers of each video."""
    _, num_rows, num_classes = logits_knc.shape
    target_nc = np.zeros((num_rows, num_classes))
    for n in range(num_rows):
        logits_kc = logits_knc[:, n] if covers_kn is None else logits_knc[covers_kn[:, n], n]
        opinions_kc = logits_kc if temperature is None else softmax(logits_kc, temperature)
        target_nc[n] = weights(method, logits_kc, labels_n[n], h=h, floor=floor) @ opinions_kc
    return target_nc


def distillation_loss(
    student_nc: Array, labels_n: NDArray[np.int64], q_nc: Array, alpha: float, temperature: float
) -> float:
    """Eq. 1-3 and 10; q_nc are the target's probabilities at the temperature."""
    num_rows, num_classes = student_nc.shape
    log_p, log_p_tau = log_softmax(student_nc), log_softmax(student_nc, temperature)
    ce = -sum(log_p[i, labels_n[i]] for i in range(num_rows)) / num_rows
    kl = 0.0
    for i in range(num_rows):
        for j in range(num_classes):
            if q_nc[i, j] > 0:
                kl += q_nc[i, j] * (np.log(q_nc[i, j]) - log_p_tau[i, j]) / num_rows
    return float(alpha * ce + (1 - alpha) * temperature**2 * kl)


def distillation_gradient(
    student_nc: Array, labels_n: NDArray[np.int64], q_nc: Array, alpha: float, temperature: float
) -> Array:
    """The derivative of `distillation_loss` by the student's logits, by hand."""
    num_rows, num_classes = student_nc.shape
    by_ce = softmax(student_nc) - np.eye(num_classes)[labels_n]
    by_kl = temperature * (softmax(student_nc, temperature) - q_nc)
    return (alpha * by_ce + (1 - alpha) * by_kl) / num_rows


def average_of_losses(
    student_nc: Array,
    labels_n: NDArray[np.int64],
    logits_knc: Array,
    covers_kn: NDArray[np.bool_],
    alpha: float,
    temperature: float,
) -> tuple[float, Array]:
    """Eq. 1 with Eq. 4, and its gradient: all teachers in memory, each video's mean over those it has."""
    num_rows = len(student_nc)
    total, gradient_nc = 0.0, np.zeros_like(student_nc)
    for n in range(num_rows):
        row = slice(n, n + 1)
        for logits_nc in logits_knc[covers_kn[:, n]]:
            batch = (student_nc[row], labels_n[row], softmax(logits_nc[row], temperature))
            share = 1 / (covers_kn[:, n].sum() * num_rows)
            total += share * distillation_loss(*batch, alpha, temperature)
            gradient_nc[row] += share * distillation_gradient(*batch, alpha, temperature)
    return total, gradient_nc
