"""Rows of an array by their numbers, as a training asks for them: held on a device, or mapped from a file."""

from __future__ import annotations

from math import prod

import torch

from ukd_dist.data.rowarray import RowArray

HELD_BYTES = 2**28


class RowMemory:
    """Gathers rows of an array; every byte of it is checked once, as it is opened.

    Args:
        array: Where the rows lie; its file stays as it is meanwhile.
        device: Where they are wanted.
        held_bytes: The largest array that is held there. Of a larger one the operating system keeps what was
            asked for lately, once for all processes of a machine.

    Raises:
        DataError: The file was cut off or altered.
    """

    def __init__(self, array: RowArray, device: torch.device, held_bytes: int = HELD_BYTES) -> None:
        self._device = device
        self.held = array.shape[0] * array.row_bytes <= held_bytes
        self._rows = array.read().to(device) if self.held else _mapped(array)

    def __getitem__(self, numbers: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Rows by number, `[n, ...]`; with a second tensor of numbers, of each row that one of its views."""
        return self._rows[tuple(n.to(self._rows.device) for n in numbers)].to(self._device)


def _mapped(array: RowArray) -> torch.Tensor:
    buffer = bytearray()
    for begin, end in array.blocks(0, array.shape[0], array.rows_per_check):
        array.read(begin, end, buffer=buffer)
    count = prod(array.shape) * array.dtype.itemsize
    mapped = torch.from_file(str(array.path), shared=False, size=array.offset + count, dtype=torch.uint8)
    return mapped[array.offset :].view(array.dtype).reshape(array.shape)
