"""The errors that a user can cause, and their exit codes.

A message has three parts: what is wrong and where; what was expected; what to do. The command line prints
it on one line, without a traceback. Faults of our own stay ordinary Python exceptions.
"""

from __future__ import annotations

import errno


class UkdError(Exception):
    """Something a user can act on went wrong while working; exit code 1.

    Args:
        problem: What is wrong, and where.
        expected: What was expected instead.
        action: What to do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, *, expected: str, action: str) -> None:
        self.problem, self.expected, self.action = problem, expected, action
        super().__init__(f"{problem}; expected {expected}; {action}")

    def __reduce__(self) -> tuple[object, ...]:
        # These travel between Ray processes, and keyword arguments do not pickle by themselves.
        return _rebuild, (type(self), self.problem, self.expected, self.action)


def _rebuild(kind: type[UkdError], problem: str, expected: str, action: str) -> UkdError:
    return kind(problem, expected=expected, action=action)


class UsageError(UkdError):
    """The command or the experiment is wrong, found before anything ran; exit code 2."""

    exit_code = 2


class DataError(UkdError):
    """A video, list, shard, logits file, target or checkpoint is not what it should be."""


class MismatchError(UkdError):
    """Files of one run directory do not belong together, or belong to other settings."""


class BusyError(UkdError):
    """Another coordinator works on this run directory."""


class CancelledError(UkdError):
    """`ukd cancel` stopped this run."""


class ResourceError(UkdError):
    """The machine or cluster lacks what was asked for."""


class TrainingError(UkdError):
    """A training stopped: its loss was not finite, or its process failed."""


class NotFiniteError(TrainingError):
    """A training's loss was not finite."""


class PreemptedError(TrainingError):
    """A training ended before its time because it was asked to; its checkpoint is written."""


class IncompleteError(TrainingError):
    """Some teachers are missing, but as many as the experiment asks for are there."""


def file_error(error: OSError) -> ResourceError:
    """The answer to a file that could not be read or written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ResourceError(
        f"{error.filename or 'a file'}: {error.strerror or error}",
        expected="free space" if full else "a file that can be read and written",
        action="free some space and run again: what is finished is kept"
        if full
        else "check it and run again",
    )
