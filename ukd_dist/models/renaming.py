"""Names of other systems' checkpoints as ours, which are pytorchvideo's.

A residual network is the same everywhere: a stem, four stages of bottleneck blocks, a head. Systems differ in
what they call them. Each rule here takes one of their names apart into such a place and what is there; where
the place is among our names, the network itself tells (`Layout`). A name that the network has is never taken
for another system's: networks of the users' are called as they like. Left out: what of a checkpoint fits by
shape, which is `fitting`'s affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ukd_dist.models.layout import Layout

_CAFFE2_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}  # riv is the variance
_CAFFE2_CONV = {"w": "weight", "b": "bias"}
_WRAPPERS = ("module.", "model.", "body.")  # what DataParallel, training scripts and this package put before

Names = Mapping[str, str]  # theirs -> ours


@dataclass(frozen=True)
class Format:
    """One system's way of naming weights.

    Attributes:
        name: The system, as its possessor.
        sign: A name that no other one gives.
        rename: Our names of its names; those that it does not know are left out.
    """

    name: str
    sign: re.Pattern[str]
    rename: Callable[[Collection[str], Layout], Names]


def rename(names: Collection[str], own: Sequence[str]) -> tuple[str, Names]:
    """The system that named a checkpoint's weights, and what each is called here.

    Args:
        names: The checkpoint's.
        own: The network's, without `body.`, in its order.

    Returns:
        Where nothing is known of the names, all stay as they are but for what wrapped the network.
    """
    ours = frozenset(own)
    plain = _unwrapped(names, ours)
    others = [name for name in plain.values() if name not in ours]
    for candidate in _FORMATS:
        if any(candidate.sign.match(name) for name in others):
            renamed = {**candidate.rename(others, Layout(own)), **{name: name for name in own}}
            return candidate.name, {name: renamed[bare] for name, bare in plain.items() if bare in renamed}
    return "our", plain


def _unwrapped(names: Collection[str], own: Collection[str]) -> Names:
    """Each name without prefixes that all have and that only say what wrapped the network.

    Of a network whose own names begin as a wrapper's, as many go as leave most of its names.
    """
    forms = [{name: name for name in names}]
    while prefix := _shared_wrapper(forms[-1].values()):
        forms.append({name: bare.removeprefix(prefix) for name, bare in forms[-1].items()})
    return max(reversed(forms), key=lambda form: sum(bare in own for bare in form.values()))


def _shared_wrapper(names: Collection[str]) -> str:
    return next((p for p in _WRAPPERS if names and all(name.startswith(p) for name in names)), "")


def _each(rule: Callable[[str, Layout], str | None]) -> Callable[[Collection[str], Layout], Names]:
    """A rule for one name, for all of them; a place that the network does not have is no name."""

    def rename_all(names: Collection[str], layout: Layout) -> Names:
        found: dict[str, str] = {}
        for name in names:
            try:
                ours = rule(name, layout)
            except IndexError:
                continue
            if ours is not None:
                found[name] = ours
        return found

    return rename_all


# --- PySlowFast


def _pyslowfast(name: str, layout: Layout) -> str | None:
    if match := re.fullmatch(r"s(\d)\.pathway(\d)_res(\d+)\.(.+)", name):
        return layout.block(int(match[1]), int(match[3]), int(match[2])) + _pyslowfast_block(match[4], layout)
    if match := re.fullmatch(r"s1\.pathway(\d)_stem\.(conv|conv_xy|bn)\.(\w+)", name):
        parts = {"conv": "conv", "bn": "norm"}
        if layout.squeezes:  # X3D: space, then time; pytorchvideo calls them the other way round
            parts = {"conv_xy": "conv.conv_t", "conv": "conv.conv_xy", "bn": "norm"}
        return f"{layout.stem(int(match[1]))}{parts.get(match[2], match[2])}.{match[3]}"
    if match := re.fullmatch(r"s(\d)_fuse\.(conv_f2s|bn)\.(\w+)", name):
        part = {"conv_f2s": "conv_fast_to_slow", "bn": "norm"}[match[2]]
        return f"{layout.fusion(int(match[1]))}{part}.{match[3]}"
    if match := re.fullmatch(r"head\.(conv_5|conv_5_bn|lin_5|projection)\.(\w+)", name):
        parts = {"conv_5": "pool.pre_conv", "conv_5_bn": "pool.pre_norm", "lin_5": "pool.post_conv"}
        return f"{layout.head}{parts.get(match[1], 'proj')}.{match[2]}"
    return None


def _pyslowfast_block(tail: str, layout: Layout) -> str:
    """What is inside a residual block: `branch1_bn.bias`, `branch2.a.weight`, `branch2.b_bn.weight`."""
    tail = re.sub(r"^branch1\.", "branch1_conv.", tail)
    tail = re.sub(r"^branch1_bn\.", "branch1_norm.", tail)
    tail = re.sub(r"^branch2\.([abc])\.", r"branch2.conv_\1.", tail)
    tail = re.sub(r"^branch2\.([abc])_bn\.", r"branch2.norm_\1.", tail)
    if layout.squeezes:
        tail = re.sub(r"^branch2\.norm_b\.", "branch2.norm_b.0.", tail)
        tail = re.sub(r"^branch2\.se\.fc1\.", "branch2.norm_b.1.block.0.", tail)
        tail = re.sub(r"^branch2\.se\.fc2\.", "branch2.norm_b.1.block.2.", tail)
    return tail


def _pyslowfast_all(names: Collection[str], layout: Layout) -> Names:
    """As `_pyslowfast`; non-local blocks by their order, as only the network knows where its own are."""
    pattern = re.compile(r"s(\d)\.pathway0_nonlocal(\d+)\.(conv_\w+|norm|bn)\.(\w+)")
    found = {name: match for name in names if (match := pattern.fullmatch(name))}
    places = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    renamed = dict(_each(_pyslowfast)(names, layout))
    for name, match in found.items():
        number, part = places.index((int(match[1]), int(match[2]))), match[3].replace("bn", "norm")
        try:
            renamed[name] = f"{layout.nonlocal_block(number)}{part}.{match[4]}"
        except IndexError:
            continue
    return renamed


# --- Caffe2: video-nonlocal-net, and what PySlowFast's zoo has from before PySlowFast


def _caffe2(names: Collection[str], layout: Layout) -> Names:
    theirs = {name: ours for name in names if (ours := _caffe2_name(name))}
    renamed = _pyslowfast_all(list(theirs.values()), layout)
    return {name: renamed[ours] for name, ours in theirs.items() if ours in renamed}


def _caffe2_name(name: str) -> str | None:
    """PySlowFast's name of a blob; blobs of the fast pathway begin with `t_`."""
    pathway, rest = (1, name[2:]) if name.startswith("t_") else (0, name)
    if rest == "conv1_w":
        return f"s1.pathway{pathway}_stem.conv.weight"
    if match := re.fullmatch(r"res_conv1_bn_(s|b|rm|riv)", rest):
        return f"s1.pathway{pathway}_stem.bn.{_CAFFE2_NORM[match[1]]}"
    if match := re.fullmatch(r"(?:pool1|res(\d)_\d+_branch2c_bn)_subsample_(bn_)?(\w+)", rest):
        part, kind = ("bn", _CAFFE2_NORM) if match[2] else ("conv_f2s", _CAFFE2_CONV)
        return f"s{match[1] or 1}_fuse.{part}.{kind[match[3]]}" if match[3] in kind else None
    if match := re.fullmatch(r"res(\d)_(\d+)_branch(1|2[abc])_(bn_)?(\w+)", rest):
        branch = "branch1" if match[3] == "1" else f"branch2.{match[3][1]}"
        kind = _CAFFE2_NORM if match[4] else _CAFFE2_CONV
        part = f"{branch}_bn" if match[4] else branch
        place = f"s{match[1]}.pathway{pathway}_res{match[2]}"
        return f"{place}.{part}.{kind[match[5]]}" if match[5] in kind else None
    if match := re.fullmatch(r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out|bn)_(\w+)", rest):
        kind = _CAFFE2_NORM if match[3] == "bn" else _CAFFE2_CONV
        part = "norm" if match[3] == "bn" else f"conv_{match[3]}"
        place = f"s{match[1]}.pathway0_nonlocal{match[2]}"
        return f"{place}.{part}.{kind[match[4]]}" if match[4] in kind else None
    if match := re.fullmatch(r"pred_([wb])", rest):
        return f"head.projection.{_CAFFE2_CONV[match[1]]}"
    return None


# --- MMAction2, VMZ: layer1 to layer4 are stages 2 to 5


def _mmaction2(name: str, layout: Layout) -> str | None:
    """TPN's neck and head have our names already."""
    parts = {"conv": "conv", "bn": "norm"}
    if match := re.fullmatch(r"backbone\.conv1\.(conv|bn)\.(\w+)", name):
        return f"{layout.stem()}{parts[match[1]]}.{match[2]}"
    if match := re.fullmatch(
        r"backbone\.layer(\d)\.(\d+)\.(conv[123]|downsample)\.(?:([01])\.)?(conv|bn)\.(\w+)", name
    ):
        place = layout.block(int(match[1]) + 1, int(match[2]))
        if match[3] == "downsample":
            return f"{place}branch1_{parts[match[5]]}.{match[6]}"
        letter = {"conv1": "a", "conv2": "b", "conv3": "c"}[match[3]]
        if match[4] == "0" and len(layout.middle) > 1:  # ip-CSN's 1x1x1 before the depthwise convolution
            return f"{place}branch2.{layout.middle[0 if match[5] == 'conv' else 1]}.{match[6]}"
        part = layout.middle[-1] if (letter, match[5]) == ("b", "conv") else f"{parts[match[5]]}_{letter}"
        return f"{place}branch2.{part}.{match[6]}"
    return re.sub(r"^cls_head\.fc_cls\.", f"{layout.head}proj.", name) if "fc_cls" in name else None


def _vmz(name: str, layout: Layout) -> str | None:
    """Names as in torchvision: a sequence of a convolution (0) and its norm (1) each."""
    kinds = ("conv", "norm")
    if match := re.fullmatch(r"stem\.([01])\.(\w+)", name):
        return f"{layout.stem()}{kinds[int(match[1])]}.{match[2]}"
    if match := re.fullmatch(
        r"layer(\d)\.(\d+)\.(?:conv([123])|downsample)\.(?:([01])|0\.([012]))\.(\w+)", name
    ):
        place = layout.block(int(match[1]) + 1, int(match[2]))
        if match[3] is None:
            return f"{place}branch1_{kinds[int(match[4])]}.{match[6]}"
        if match[5] is not None:  # ip-CSN's 1x1x1, its norm, and the depthwise convolution
            return f"{place}branch2.{layout.middle[int(match[5])]}.{match[6]}"
        part = f"{kinds[int(match[4])]}_{' abc'[int(match[3])]}"
        return f"{place}branch2.{part if part != 'conv_b' else layout.middle[-1]}.{match[6]}"
    if match := re.fullmatch(r"fc\.(\w+)", name):
        return f"{layout.head}proj.{match[1]}"
    return None


def _vmz_caffe2(names: Collection[str], layout: Layout) -> Names:
    """Blocks are counted through all stages; of ir-CSN the depthwise convolution counts as two."""
    reduced = any("_conv_4_" in name for name in names)
    letters = {"1": "a", "3": "b", "4": "c"} if reduced else {"1": "a", "2": "b", "3": "c"}
    places = [(stage, block) for stage, count in enumerate(layout.blocks, 2) for block in range(count)]

    def rule(name: str, layout: Layout) -> str | None:
        if match := re.fullmatch(r"conv1_(spatbn_relu_)?(\w+)", name):
            return _blob(layout.stem(), "norm" if match[1] else "conv", match[2], norm=bool(match[1]))
        if match := re.fullmatch(r"shortcut_projection_(\d+)_(spatbn_)?(\w+)", name):
            part = "branch1_norm" if match[2] else "branch1_conv"
            return _blob(layout.block(*places[int(match[1])]), part, match[3], norm=bool(match[2]))
        if match := re.fullmatch(r"comp_(\d+)_(conv|spatbn)_(\d)_(middle_)?(\w+)", name):
            norm, letter = match[2] == "spatbn", letters.get(match[3], "")
            part = f"norm_{letter}" if norm else f"conv_{letter}"
            if match[4]:
                part = layout.middle[1 if norm else 0]
            elif part == "conv_b":
                part = layout.middle[-1]
            place = f"{layout.block(*places[int(match[1])])}branch2."
            return _blob(place, part, match[5], norm=norm)
        if match := re.fullmatch(r"last_out_L\d+_([wb])", name):
            return _blob(layout.head, "proj", match[1], norm=False)
        return None

    return _each(rule)(names, layout)


def _blob(place: str, part: str, ending: str, *, norm: bool) -> str | None:
    kind = _CAFFE2_NORM if norm else _CAFFE2_CONV
    return f"{place}{part}.{kind[ending]}" if ending in kind else None


_FORMATS = (
    Format("PySlowFast's", re.compile(r"s1\.pathway0_stem\."), _pyslowfast_all),
    Format("MMAction2's", re.compile(r"backbone\.layer1\."), _each(_mmaction2)),
    Format("VMZ's", re.compile(r"layer1\.0\.conv1\."), _each(_vmz)),
    Format("VMZ's Caffe2's", re.compile(r"comp_0_conv_1_"), _vmz_caffe2),
    Format("Caffe2's", re.compile(r"res2_0_branch2a_"), _caffe2),
)
