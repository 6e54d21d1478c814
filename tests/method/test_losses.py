"""Properties of the student's loss (Eq. 1-3, 5 and 10); Eq. 4 has a file of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests.method import oracle
from ukd_dist.errors import DataError, UsageError
from ukd_dist.method.losses import DistillationLoss, distillation_loss
from ukd_dist.method.weighting import Space

Batch = tuple[Tensor, Tensor, Tensor]
SPACES: tuple[Space, ...] = ("logits", "probs")

alphas = st.floats(0, 1)
temperatures = st.floats(0.5, 60)


@st.composite
def batches(draw: st.DrawFn, dtype: type[np.floating] = np.float32) -> Batch:
    """A student's logits [n, C], labels [n] and a teacher's logits [n, C], all up to +-50."""
    n, c = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    logits = arrays(dtype, (n, c), elements=st.floats(-50, 50, width=32))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return torch.from_numpy(draw(logits)), torch.from_numpy(labels), torch.from_numpy(draw(logits))


def random_batch(seed: int = 0, num_rows: int = 16, num_classes: int = 11) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    student_nc, teacher_nc = torch.randn(2, num_rows, num_classes, generator=generator) * 3
    return student_nc, torch.randint(num_classes, (num_rows,), generator=generator), teacher_nc


def loss(
    batch: Batch, alpha: float, temperature: float, space: Space, smoothing: float = 0.0
) -> DistillationLoss:
    """The loss by a teacher's logits, in either space."""
    student_nc, labels_n, teacher_nc = batch
    target_nc = (
        teacher_nc if space == "logits" else (teacher_nc.double() / temperature).softmax(dim=1).float()
    )
    return distillation_loss(
        student_nc,
        labels_n,
        target_nc,
        alpha=alpha,
        temperature=temperature,
        space=space,
        label_smoothing=smoothing,
    )


def oracle_arguments(batch: Batch, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    student_nc, labels_n, teacher_nc = batch
    return (
        student_nc.detach().double().numpy(),
        labels_n.numpy(),
        oracle.softmax(teacher_nc.double().numpy(), temperature),
    )


@given(batches(), alphas, temperatures, st.sampled_from(SPACES))
@settings(deadline=None)
def test_the_loss_is_the_papers(batch: Batch, alpha: float, temperature: float, space: Space) -> None:
    total = loss(batch, alpha, temperature, space).total.item()
    expected = oracle.distillation_loss(*oracle_arguments(batch, temperature), alpha, temperature)
    assert total == pytest.approx(expected, rel=1e-5, abs=1e-6 * temperature**2)


@given(batches(np.float64), alphas, temperatures)
@settings(deadline=None)
def test_the_gradient_is_the_one_derived_by_hand(batch: Batch, alpha: float, temperature: float) -> None:
    student_nc = batch[0].requires_grad_()
    loss(batch, alpha, temperature, "logits").total.backward()
    expected = oracle.distillation_gradient(*oracle_arguments(batch, temperature), alpha, temperature)
    assert student_nc.grad is not None
    np.testing.assert_allclose(student_nc.grad.numpy(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("space", SPACES)
def test_the_gradient_agrees_with_finite_differences_of_the_paper(space: Space) -> None:
    batch, alpha, temperature, step = random_batch(num_rows=3, num_classes=4), 0.3, 7.0, 1e-5
    student_nc = batch[0].requires_grad_()
    loss(batch, alpha, temperature, space).total.backward()
    student, labels, q = oracle_arguments(batch, temperature)
    expected = np.zeros_like(student)
    for index in np.ndindex(*student.shape):
        nudge = np.zeros_like(student)
        nudge[index] = step
        rise = oracle.distillation_loss(student + nudge, labels, q, alpha, temperature)
        fall = oracle.distillation_loss(student - nudge, labels, q, alpha, temperature)
        expected[index] = (rise - fall) / (2 * step)
    assert student_nc.grad is not None
    np.testing.assert_allclose(student_nc.grad.numpy(), expected, rtol=1e-5, atol=1e-6)


@given(batches(), temperatures)
@settings(deadline=None)
def test_the_kl_is_zero_where_the_student_equals_the_target(batch: Batch, temperature: float) -> None:
    student_nc, labels_n, _ = batch
    equal = (student_nc, labels_n, student_nc)
    assert loss(equal, 0.5, temperature, "logits").kl.item() == 0.0
    # Probabilities are stored as float32: a relative error of 6e-8 in each, whose square is what the KL sees.
    assert abs(loss(equal, 0.5, temperature, "probs").kl.item()) <= 1e-13 * temperature**2


@given(batches(), temperatures, st.sampled_from(SPACES))
@settings(deadline=None)
def test_the_kl_is_never_negative(batch: Batch, temperature: float, space: Space) -> None:
    assert loss(batch, 0.5, temperature, space).kl.item() >= -1e-13 * temperature**2


@given(batches(), alphas, temperatures, st.sampled_from(SPACES))
@settings(deadline=None)
def test_the_total_is_made_of_its_parts(batch: Batch, alpha: float, temperature: float, space: Space) -> None:
    total, ce, kl = loss(batch, alpha, temperature, space)
    torch.testing.assert_close(total, alpha * ce + (1 - alpha) * kl)
    torch.testing.assert_close(ce, F.cross_entropy(batch[0], batch[1]))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_loss_is_continuous_in_alpha_at_its_ends(space: Space, end: float) -> None:
    batch = random_batch()
    at_end, inside = (loss(batch, alpha, 20.0, space).total.item() for alpha in (end, abs(end - 1e-6)))
    slope = abs(loss(batch, 1.0, 20.0, space).total.item() - loss(batch, 0.0, 20.0, space).total.item())
    assert abs(at_end - inside) <= 1e-6 * slope + 1e-6


@given(temperatures, st.sampled_from(SPACES))
@settings(deadline=None)
def test_the_loss_is_continuous_in_the_temperature(temperature: float, space: Space) -> None:
    batch = random_batch()
    near = temperature * (1 + 1e-6)
    values = [loss(batch, 0.5, tau, space).total.item() for tau in (temperature, near)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_tau_squared_is_kept_at_alpha_zero() -> None:
    batch, temperature = random_batch(), 20.0
    student_nc, _, teacher_nc = (x.double() for x in batch)
    plain = F.kl_div(
        (student_nc / temperature).log_softmax(dim=1),
        (teacher_nc / temperature).softmax(dim=1),
        reduction="batchmean",
    )
    total, _, kl = loss(batch, 0.0, temperature, "logits")
    assert total.item() == kl.item() == pytest.approx(400 * plain.item(), rel=1e-6)


def test_at_alpha_one_the_target_has_no_influence() -> None:
    student_nc, labels_n, teacher_nc = random_batch()
    student_nc.requires_grad_()
    total, ce, _ = loss((student_nc, labels_n, teacher_nc), 1.0, 20.0, "logits")
    total.backward()
    ours, student_nc.grad = student_nc.grad, None
    F.cross_entropy(student_nc, labels_n).backward()
    assert total.item() == ce.item()
    assert ours is not None
    assert student_nc.grad is not None
    torch.testing.assert_close(ours, student_nc.grad)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_one_hot_targets_have_finite_losses_and_gradients(scale: float) -> None:
    student_nc, labels_n, _ = random_batch()
    student_nc = (student_nc * scale).requires_grad_()
    one_hot_nc = F.one_hot(labels_n, 11).float()
    for target_nc, space in ((one_hot_nc, "probs"), (one_hot_nc * 1e4, "logits")):
        parts = distillation_loss(student_nc, labels_n, target_nc, alpha=0.5, temperature=1.0, space=space)  # type: ignore[arg-type]
        parts.total.backward()
        assert all(part.isfinite() for part in parts)
        assert student_nc.grad is not None
        assert student_nc.grad.isfinite().all()


def test_with_one_hot_probabilities_at_temperature_one_the_kl_is_the_cross_entropy() -> None:
    student_nc, labels_n, _ = random_batch()
    one_hot_nc = F.one_hot(labels_n, 11).float()
    parts = distillation_loss(student_nc, labels_n, one_hot_nc, alpha=0.5, temperature=1.0, space="probs")
    torch.testing.assert_close(parts.kl, parts.ce)


def test_both_spaces_agree_for_one_teacher() -> None:
    batch = random_batch()
    torch.testing.assert_close(loss(batch, 0.5, 20.0, "probs"), loss(batch, 0.5, 20.0, "logits"))


def test_a_small_kl_survives_a_high_temperature() -> None:
    student_nc, labels_n, teacher_nc = random_batch()
    close = (student_nc, labels_n, student_nc + 1e-3 * teacher_nc)
    expected = oracle.distillation_loss(*oracle_arguments(close, 60.0), 0.0, 60.0)
    assert loss(close, 0.0, 60.0, "logits").kl.item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_reaches_the_cross_entropy_alone() -> None:
    batch = random_batch()
    smoothed, plain = loss(batch, 0.5, 20.0, "logits", smoothing=0.1), loss(batch, 0.5, 20.0, "logits")
    torch.testing.assert_close(smoothed.ce, F.cross_entropy(batch[0], batch[1], label_smoothing=0.1))
    assert smoothed.kl.item() == plain.kl.item()


def test_nothing_flows_back_into_the_target() -> None:
    student_nc, labels_n, teacher_nc = random_batch()
    teacher_nc.requires_grad_()
    loss((student_nc.requires_grad_(), labels_n, teacher_nc), 0.5, 20.0, "logits").total.backward()
    assert teacher_nc.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_loss_is_at_least_float32_also_under_autocast(dtype: torch.dtype) -> None:
    student_nc, labels_n, teacher_nc = random_batch()
    expected = loss((student_nc.to(dtype).float(), labels_n, teacher_nc), 0.5, 20.0, "logits")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = loss((student_nc.to(dtype), labels_n, teacher_nc), 0.5, 20.0, "logits")
    assert [part.dtype for part in parts] == [torch.float32] * 3
    torch.testing.assert_close(parts, expected)


STUDENT, LABELS, TARGET = torch.zeros(2, 3), torch.tensor([0, 2]), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 1.5}, "^alpha is 1.5; expected 0 <= alpha <= 1; choose"),
        ({"alpha": float("nan")}, "^alpha is nan; expected 0 <= alpha <= 1; choose"),
        ({"temperature": 0.0}, "^temperature is 0; expected a positive number; choose"),
        ({"temperature": float("inf")}, "^temperature is inf; expected a positive number; choose"),
        ({"space": "odds"}, "^space 'odds' is unknown; expected logits or probs; use"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    arguments = {"alpha": 0.5, "temperature": 20.0, "space": "logits"} | wrong
    with pytest.raises(UsageError, match=message):
        distillation_loss(STUDENT, LABELS, TARGET, **arguments)  # type: ignore[arg-type]


def test_a_target_of_another_shape_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"^the target's shape is \[1, 3\]; expected \[2, 3\], that of the student's"
    ):
        distillation_loss(STUDENT, LABELS, TARGET[:1], alpha=0.5, temperature=20.0, space="logits")
