"""A finished network as an ONNX file, which is compared with the original before it is written.

The file takes normalised clips and gives logits; how clips are made of pictures is in its metadata, not in
its graph: decoding and resizing stay the caller's.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ukd_dist.data.clips import CHANNELS, RGB_MEAN, RGB_STD
from ukd_dist.errors import ResourceError, TrainingError
from ukd_dist.manifest import write_atomically
from ukd_dist.training.trained import Trained, TrainedNetwork, load_network

# Largest difference of a logit, as a share of the largest logit: float32 sums in another order.
TOLERANCE = 1e-4
INPUT, OUTPUT = "clips", "logits"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_BATCHES = (1, 3)  # the graph is made with 2: another number shows that it takes any


@dataclass(frozen=True)
class Exported:
    """An ONNX file.

    Attributes:
        file: Where it lies.
        bytes: Its size.
        opset: Version of ONNX's operators.
        clips: Shape of its input, of which the first is any number: batch, channels, frames, height, width.
        classes: Number of its logits.
        difference: Largest difference from torch's logits on random clips, as a share of the largest logit.
        tolerance: What was allowed.
    """

    file: str
    bytes: int
    opset: int
    clips: tuple[str | int, ...]
    classes: int
    difference: float
    tolerance: float


def export_onnx(directory: Path, out: Path | None = None) -> Exported:
    """Write a finished student or teacher as ONNX.

    Args:
        directory: The member's.
        out: The file; default: the member's id, in the current folder.

    Raises:
        UsageError: No trained network lies there.
        ResourceError: The packages of the extra `export` are not installed.
        TrainingError: ONNX Runtime gives other logits than torch; nothing is written.
    """
    _check_installed()
    network = load_network(directory)
    out = out or Path(f"{network.trained.id}.onnx")
    model = _traced(network)
    for name, value in metadata(network.trained).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
    payload: bytes = model.SerializeToString()
    difference = _difference(network, payload)
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"ONNX Runtime gives other logits of {network.trained.id} than torch, by {difference:.2g}",
            expected=f"at most {TOLERANCE:g} of the largest",
            action="report it with the versions of torch, onnxscript and onnxruntime; nothing was written",
        )
    write_atomically(out, payload)
    opset, classes = int(model.opset_import[0].version), len(network.classes)
    shape = ("batch", *_random_clips(network, 1).shape[1:])
    return Exported(str(out), len(payload), opset, shape, classes, difference, TOLERANCE)


def metadata(trained: Trained) -> dict[str, Any]:
    """What the file says of itself beside its graph: text, or values that become JSON."""
    clip = trained.settings.clip
    shown: dict[str, Any] = {"clip": clip.model_dump(mode="json")}
    if trained.settings.modality == "rgb":
        # A value v in 0..255 becomes ((v / 255) ** (1 / gamma) - mean) / std, the same in every channel.
        shown |= {"gamma": clip.gamma, "mean": RGB_MEAN, "std": RGB_STD}
    else:
        shown |= {"flow": trained.encoding.flow, "flow_bound": trained.encoding.flow_bound}
    return {
        "member": trained.id,
        "arch": trained.settings.arch,
        "modality": trained.settings.modality,
        "classes": list(trained.classes),
        **shown,
        "stored_short_side": trained.encoding.short_side,
        "digests": trained.digests,
    }


def _check_installed() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ResourceError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            expected=f"{', '.join(_PACKAGES)}, which an ONNX file is made and checked with",
            action="install them: pip install 'ukd-dist[export]'",
        )


def _traced(network: TrainedNetwork) -> Any:
    """The network as onnx.ModelProto, of any batch."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it tells of its steps there
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (_random_clips(network, 2),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _difference(network: TrainedNetwork, payload: bytes) -> float:
    """Largest difference of ONNX Runtime's logits from torch's, as a share of the largest of torch's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in _BATCHES:
        clips_bcthw = _random_clips(network, batch)
        with torch.inference_mode():
            wanted_bc = network(clips_bcthw)
        (found_bc,) = session.run([OUTPUT], {INPUT: clips_bcthw.numpy()})
        difference = (torch.from_numpy(found_bc) - wanted_bc).abs().max() / wanted_bc.abs().max()
        worst = max(worst, float(difference))
    return worst


def _random_clips(network: TrainedNetwork, batch: int) -> torch.Tensor:
    """Clips of noise, float32, as wide as normalised ones."""
    clip, channels = network.clip, CHANNELS[network.modality]
    shape = (batch, channels, clip.frames, clip.size, clip.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))
