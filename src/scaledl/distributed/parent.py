"""A process that ends with the one that started it. Linux only; elsewhere nothing happens."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def dying_with(parent: int) -> Callable[[], None]:
    """A function for a new child to call: the kernel kills it when `parent` is gone, however that ended.

    All that must be loaded is loaded here, before the fork.
    """
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it was faster
            os.kill(os.getpid(), signal.SIGKILL)

    return tie
