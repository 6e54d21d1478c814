"""Bytes and seconds as people read them."""

from __future__ import annotations


def in_bytes(size: float) -> str:
    """Bytes with three digits or so: 512 B, 3.4 MB, 270 GB."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while size >= 1000 and len(units) > 1:
        size, _ = size / 1000, units.pop()
    return f"{size:.0f} {units[-1]}" if size >= 100 or units[-1] == "B" else f"{size:.1f} {units[-1]}"


def in_seconds(seconds: float | None) -> str:
    """A duration with two digits or so, ? where it is unknown."""
    if seconds is None:
        return "?"
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
