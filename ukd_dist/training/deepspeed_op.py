"""DeepSpeed's CPU communication op: compiled ahead of time, and loaded safely.

`python -m ukd_dist.training.deepspeed_op` compiles it at installation; DeepSpeed would do so at first use,
most of a minute in which a student's ranks wait. torch's builder guards its folder with a file that outlives
a killed process, and every later one would wait for it for ever; here a lock of the kernel's guards it too,
and a file that is found under that lock is a dead process's. A virtual environment keeps its own build:
torch's folder is common to all environments of one Python version, which would rebuild each other's.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path


def load() -> str:
    """Load the op, compiled if need be; DeepSpeed finds it loaded afterwards.

    Returns:
        The name of the loaded extension module.

    Raises:
        RuntimeError: The compiler or ninja is missing or failed (raised by torch's extension builder).
    """
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    from torch.utils.cpp_extension import get_default_build_root

    if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", f"{sys.prefix}/torch_extensions")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    builder = ShareMemCommBuilder()
    with (root / f"{builder.NAME}.flock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left_behind in root.rglob(f"{builder.NAME}/lock"):
            left_behind.unlink(missing_ok=True)
        return str(builder.load(verbose=False).__name__)


if __name__ == "__main__":
    print(f"built {load()}")
