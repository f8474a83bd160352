"""Errors that reach the user as one message and an exit code, never as a traceback."""


class ScaledlError(Exception):
    """A failed run (exit code 1). `told`: another rank tells the user, and this process ends without a word."""

    exit_code = 1
    told = False


class UsageError(ScaledlError):
    """Bad usage, config or input (exit code 2)."""

    exit_code = 2


class VerdictError(ScaledlError):
    """The work was done and the verdict is no: verification failed, infeasible, regression (exit code 3)."""

    exit_code = 3


class Preempted(ScaledlError):
    """Stopped by a signal after saving; the same command goes on from there (exit code 75)."""

    exit_code = 75


class Interrupted(ScaledlError):
    """Ctrl-C, after saving what could be saved (exit code 130)."""

    exit_code = 130


def require_extra(module: str, extra: str) -> None:
    """Raise a UsageError that names the extra when `module` is not installed.

    >>> require_extra("json", "nothing")
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise UsageError(f"{module} is not installed; install it with: pip install 'scaledl[{extra}]'")
