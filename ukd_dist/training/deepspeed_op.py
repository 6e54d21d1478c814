"""Compile DeepSpeed's CPU communication op ahead of time (`python -m ukd_dist.training.deepspeed_op`).

DeepSpeed compiles it at first use otherwise, in every new environment: most of a minute in which a
student's ranks wait for one another.
"""

from __future__ import annotations


def build() -> str:
    """Compile and load the op; a second call only loads it.

    Returns:
        The name of the loaded extension module.

    Raises:
        RuntimeError: The compiler or ninja is missing or failed (raised by torch's extension builder).
    """
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    return str(ShareMemCommBuilder().load().__name__)


if __name__ == "__main__":
    print(f"built {build()}")
