"""`arch: package.module:function`: a network of the user's.

The function is called with the keyword arguments `num_classes`, `channels`, `clip` (a `clip_config.Clip`) and
`dropout`, under the training's seed, and returns a torch module that makes logits `[batch, num_classes]` of
clips `[batch, channels, clip.frames, clip.size, clip.size]`. It sees every decoded frame. Its module must be
importable wherever a member is trained or used: installed there, on PYTHONPATH, or in Ray's working
directory. What it computes is no part of a member's id: another network wants another name, or `--replace`.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ukd_dist.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

ARGUMENTS = ("num_classes", "channels", "clip", "dropout")
_FORM = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)")
_PLACES = "install it, set PYTHONPATH, or submit it in Ray's working directory"


def is_own(arch: str) -> bool:
    """Whether `arch` names a function of the user's instead of a network of ours."""
    return ":" in arch


def check_own(arch: str) -> None:
    """Refuse a name of another form, or a module that is not there; nothing of the user's is run.

    Raises:
        UsageError: As said.
    """
    module, _ = _parts(arch)
    package, *inner = module.split(".")
    spec = _found(package)
    for name in inner:
        if spec is None:
            break
        package = f"{package}.{name}"
        spec = PathFinder.find_spec(package, spec.submodule_search_locations or [])
    if spec is None:
        raise UsageError(
            f"arch {arch}: there is no module {package}",
            expected="a module that Python finds here and on every node",
            action=f"correct arch, or {_PLACES}",
        )


def _found(package: str) -> ModuleSpec | None:
    """Where a top-level package is, which is found without importing it; __main__ is another on each node."""
    return None if package == "__main__" else find_spec(package)


def build_own(arch: str, **arguments: Any) -> nn.Module:
    """What the function returns.

    Args:
        arch: package.module:function.
        arguments: Those of `ARGUMENTS`.

    Raises:
        UsageError: The module does not import, the function is not there, takes other arguments, fails, or
            returns no torch module.
    """
    function = _function(arch)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"arch {arch}: {error}",
            expected=f"a function that takes the keyword arguments {', '.join(ARGUMENTS)}",
            action="give it these, or **others",
        ) from error
    import torch

    try:
        with torch.device("cpu"):  # whatever the device of the caller, who may only count
            found = function(**arguments)
    except Exception as error:  # the user's code may raise anything
        raise UsageError(
            f"arch {arch} failed: {_told(error)}",
            expected="a function that returns a network",
            action="correct the function",
        ) from error
    return _module(arch, found)


def _parts(arch: str) -> tuple[str, str]:
    found = _FORM.fullmatch(arch)
    if not found:
        raise UsageError(
            f"arch {arch} is not of the form package.module:function",
            expected="a module and a function of it, as in mynets.wide:network",
            action="correct arch",
        )
    return found["module"], found["function"]


def _function(arch: str) -> Callable[..., Any]:
    name, function = _parts(arch)
    try:
        module = pkgutil.resolve_name(f"{name}:")
    except Exception as error:  # the user's code may raise anything
        raise UsageError(
            f"arch {arch} does not import: {_told(error)}",
            expected="a module that Python finds here and on every node, with all that it imports",
            action=f"correct it, or {_PLACES}",
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        wrong = "has no" if found is None else "holds something that cannot be called as"
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(
            f"arch {arch}: module {name} {wrong} {function}",
            expected=f"a function that returns a network, one of {', '.join(known) or 'which there is none'}",
            action="correct arch",
        )
    return found  # type: ignore[no-any-return]


def _told(error: Exception) -> str:
    """What an exception of the user's code says, on one line, and where in the code it was raised."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, ImportError | SyntaxError) else f" ({at.filename}, line {at.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _module(arch: str, found: object) -> nn.Module:
    from torch import nn

    if not isinstance(found, nn.Module):
        raise UsageError(
            f"arch {arch} returned {type(found).__name__}",
            expected="a torch.nn.Module",
            action="return the network itself",
        )
    return found
