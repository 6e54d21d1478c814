"""The method as its paper writes it (Jin et al., Unlimited Knowledge Distillation), in plain numpy."""

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


def target(
    logits_knc: Array,
    labels_n: NDArray[np.int64],
    *,
    method: str,
    h: float = 0.99,
    floor: float = 1e-4,
    temperature: float | None = None,
) -> Array:
    """Eq. 9, of logits, or of probabilities if there is a temperature, with weights that sum to 1 over k."""
    num_teachers, num_rows, num_classes = logits_knc.shape
    target_nc = np.zeros((num_rows, num_classes))
    for n in range(num_rows):
        s = [similarity(method, logits_knc[k, n], labels_n[n], h, floor) for k in range(num_teachers)]
        for k in range(num_teachers):
            opinion = logits_knc[k, n] if temperature is None else softmax(logits_knc[k, n], temperature)
            target_nc[n] += s[k] / sum(s) * opinion
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
