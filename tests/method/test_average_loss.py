"""AVG-1 (Eq. 4): the mean of every teacher's divergence, from one stored target and one scalar a video."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from tests.method import oracle
from tests.method.fleets import PartialFleet, assemble, random_fleet
from ukd_dist.errors import DataError, UsageError
from ukd_dist.method.losses import DistillationLoss, distillation_loss
from ukd_dist.method.weighting import Weighting

Classroom = tuple[Tensor, PartialFleet]

alphas = st.floats(0, 1)
temperatures = st.floats(0.5, 60)


@st.composite
def classrooms(draw: st.DrawFn) -> Classroom:
    """A student's logits, float64 [n, C], and several teachers', float32, all up to +-50; NaN uncovered."""
    k, n, c = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(2, 12))
    logits = st.floats(-50, 50, width=32)
    student_nc = torch.from_numpy(draw(arrays(np.float64, (n, c), elements=logits)))
    logits_knc = torch.from_numpy(draw(arrays(np.float32, (k, n, c), elements=logits)))
    labels_n = torch.from_numpy(draw(arrays(np.int64, n, elements=st.integers(0, c - 1))))
    covers_kn = torch.from_numpy(draw(arrays(np.bool_, (k, n))))
    covers_kn[0] = True
    return student_nc, (logits_knc.masked_fill(~covers_kn.unsqueeze(2), torch.nan), labels_n, covers_kn)


def random_classroom(num_rows: int = 8) -> Classroom:
    logits_knc, labels_n = random_fleet(4, num_rows, 11)
    covers_kn = torch.ones(3, num_rows, dtype=torch.bool)
    return logits_knc[0].double(), (logits_knc[1:], labels_n, covers_kn)


def loss(classroom: Classroom, alpha: float, temperature: float, method: str = "avg1") -> DistillationLoss:
    """The loss through the sums and a stored float32 target."""
    student_nc, fleet = classroom
    weighting = Weighting(method=method, space="probs", temperature=temperature)  # type: ignore[arg-type]
    assembly = assemble(weighting, *fleet)
    return distillation_loss(
        student_nc,
        fleet[1],
        assembly.finish(),
        alpha=alpha,
        temperature=temperature,
        space="probs",
        mean_entropies_n=assembly.mean_entropies() if method == "avg1" else None,
    )


def in_memory(classroom: Classroom, alpha: float, temperature: float) -> tuple[float, np.ndarray]:
    student_nc, (logits_knc, labels_n, covers_kn) = classroom
    return oracle.average_of_losses(
        student_nc.detach().numpy(),
        labels_n.numpy(),
        logits_knc.double().numpy(),
        covers_kn.numpy(),
        alpha,
        temperature,
    )


def rounding_of(student_nc: Tensor, temperature: float) -> float:
    """What float32 targets may change of the loss.

    A stored probability is q (1 + d), |d| <= 2^-24, and so is their sum, which is divided by. Of tau^2 times
    the sum of q log p, where log p varies by the student's range / tau, that is 2^-23 * tau * range.
    """
    largest_range = float((student_nc.amax(dim=1) - student_nc.amin(dim=1)).max())
    return 2.0**-23 * temperature * largest_range + 1e-12 * temperature**2


@given(classrooms(), alphas, temperatures)
@settings(deadline=None)
def test_the_loss_is_the_mean_of_all_teachers_losses(
    classroom: Classroom, alpha: float, temperature: float
) -> None:
    expected, _ = in_memory(classroom, alpha, temperature)
    found = loss(classroom, alpha, temperature).total.item()
    assert found == pytest.approx(expected, rel=1e-12, abs=rounding_of(classroom[0], temperature))


@given(classrooms(), alphas, temperatures)
@settings(deadline=None)
def test_the_gradient_is_the_mean_of_all_teachers_gradients(
    classroom: Classroom, alpha: float, temperature: float
) -> None:
    _, expected_nc = in_memory(classroom, alpha, temperature)
    student_nc = classroom[0].requires_grad_()
    loss(classroom, alpha, temperature).total.backward()
    assert student_nc.grad is not None
    # tau / n times a probability that is stored as float32 and divided by a sum of such.
    tolerance = 2.0**-23 * temperature / len(student_nc)
    np.testing.assert_allclose(student_nc.grad.numpy(), expected_nc, rtol=0, atol=tolerance)


@given(classrooms(), alphas, temperatures)
@settings(deadline=None)
def test_both_averages_have_the_same_gradient(classroom: Classroom, alpha: float, temperature: float) -> None:
    student_nc, fleet = classroom
    gradients = []
    for method in ("avg1", "avg"):
        student = student_nc.clone().requires_grad_()
        loss((student, fleet), alpha, temperature, method).total.backward()
        assert student.grad is not None
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-15)


@given(classrooms(), temperatures)
@settings(deadline=None)
def test_the_first_average_exceeds_the_second_by_a_constant_that_is_never_negative(
    classroom: Classroom, temperature: float
) -> None:
    student_nc, fleet = classroom
    other = (student_nc.flip(1), fleet)
    differences = [
        loss(c, 0.0, temperature, "avg1").kl.item() - loss(c, 0.0, temperature, "avg").kl.item()
        for c in (classroom, other)
    ]
    assert differences[0] == pytest.approx(differences[1], rel=1e-9, abs=1e-12 * temperature**2)
    # The entropy of the stored target is as rounded as its probabilities; a teacher's range is at most 100.
    assert differences[0] >= -(2.0**-23) * temperature * 100 - 1e-12 * temperature**2


@given(classrooms(), temperatures)
@settings(deadline=None)
def test_with_equal_teachers_both_averages_are_one(classroom: Classroom, temperature: float) -> None:
    student_nc, (logits_knc, labels_n, _) = classroom
    covers_kn = torch.ones(3, len(labels_n), dtype=torch.bool)
    alike = (student_nc, (logits_knc[:1].expand(3, -1, -1), labels_n, covers_kn))
    first, second = (loss(alike, 0.0, temperature, method).kl.item() for method in ("avg1", "avg"))
    teachers_range = rounding_of(logits_knc[0].double(), temperature)
    assert first == pytest.approx(second, rel=1e-12, abs=teachers_range)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_loss_is_continuous_in_alpha_at_its_ends(end: float) -> None:
    classroom = random_classroom()
    at_end, inside = (loss(classroom, alpha, 20.0).total.item() for alpha in (end, abs(end - 1e-6)))
    slope = abs(loss(classroom, 1.0, 20.0).total.item() - loss(classroom, 0.0, 20.0).total.item())
    assert abs(at_end - inside) <= 1e-6 * slope * (1 + 1e-6)


@given(temperatures)
@settings(deadline=None)
def test_the_loss_is_continuous_in_the_temperature(temperature: float) -> None:
    classroom = random_classroom()
    here, near = (loss(classroom, 0.5, tau).total.item() for tau in (temperature, temperature * (1 + 1e-6)))
    assert near == pytest.approx(here, rel=1e-5, abs=2 * rounding_of(classroom[0], temperature))


def test_nothing_flows_back_into_the_entropies() -> None:
    student_nc, fleet = random_classroom()
    mean_entropies_n = torch.ones(8, dtype=torch.float64, requires_grad=True)
    target_nc = torch.full((8, 11), 1 / 11)
    parts = distillation_loss(
        student_nc.requires_grad_(),
        fleet[1],
        target_nc,
        alpha=0.5,
        temperature=10.0,
        space="probs",
        mean_entropies_n=mean_entropies_n,
    )
    parts.total.backward()
    assert mean_entropies_n.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_loss_is_at_least_float32_also_under_autocast(dtype: torch.dtype) -> None:
    student_nc, fleet = random_classroom()
    expected = loss((student_nc.to(dtype).float(), fleet), 0.5, 10.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = loss((student_nc.to(dtype), fleet), 0.5, 10.0)
    assert [part.dtype for part in parts] == [torch.float32] * 3
    torch.testing.assert_close(parts, expected)


def refused(space: str, mean_entropies_n: Tensor) -> None:
    distillation_loss(
        torch.zeros(2, 3),
        torch.tensor([0, 2]),
        torch.full((2, 3), 1 / 3),
        alpha=0.5,
        temperature=10.0,
        space=space,  # type: ignore[arg-type]
        mean_entropies_n=mean_entropies_n,
    )


def test_entropies_of_a_target_of_logits_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^there are mean entropies of a target in space 'logits'; expected space 'probs'"
    ):
        refused("logits", torch.ones(2))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_another_number_of_entropies_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        DataError, match=r"^the mean entropies' shape is \[.*\]; expected \[2\], one for each video .*; use"
    ):
        refused("probs", torch.ones(shape))
