"""Clips as features: rows of two modalities, drawn so that thousands of test rows are cheap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CLASSES, MODES, FEATURES = 11, 3, 24
GROUP_ROWS, GROUP_CLASSES, TRAIN_GROUPS, TEST_GROUPS = 55, 5, 30, 364


class Rows(NamedTuple):
    """Features [modality, n, F], rgb before flow; labels and recordings int64 [n]."""

    features_mnf: Tensor
    labels_n: Tensor
    groups_n: Tensor

    def where(self, chosen_n: Tensor) -> Rows:
        return Rows(self.features_mnf[:, chosen_n], self.labels_n[chosen_n], self.groups_n[chosen_n])


def draw(generator: torch.Generator) -> tuple[Rows, Rows]:
    """Returns training and test rows of one world: other recordings, the same classes."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    classes = torch.arange(CLASSES)
    # Classes of one look differ in motion, and the other way round: 11 of the 4 x 3 pairs.
    centres_mcf = torch.stack([normal(4, FEATURES)[classes % 4], normal(3, FEATURES)[classes // 4]])
    centres_mcf = 0.7 * centres_mcf + 0.5 * normal(2, CLASSES, FEATURES)
    ways_mcwf = centres_mcf.unsqueeze(2) + 0.5 * normal(2, CLASSES, MODES, FEATURES)

    def record_clips(num_groups: int) -> Rows:
        chosen = torch.rand(num_groups, CLASSES, generator=generator).argsort(dim=1)[:, :GROUP_CLASSES]
        labels_n = chosen.repeat_interleave(GROUP_ROWS // GROUP_CLASSES, dim=1).flatten()
        groups_n = torch.arange(num_groups).repeat_interleave(GROUP_ROWS)
        ways_n = torch.randint(MODES, labels_n.shape, generator=generator)
        marks_mgf = normal(2, num_groups, FEATURES) * torch.tensor([0.7, 0.35])[:, None, None]
        darkness_n = 0.5 + torch.rand(len(labels_n), generator=generator)
        noise_mnf = normal(2, len(labels_n), FEATURES) * torch.tensor([1.9, 1.6])[:, None, None]
        clear_mnf = ways_mcwf[:, labels_n, ways_n] + marks_mgf[:, groups_n]
        return Rows(clear_mnf + noise_mnf * darkness_n[:, None], labels_n, groups_n)

    return record_clips(TRAIN_GROUPS), record_clips(TEST_GROUPS)
