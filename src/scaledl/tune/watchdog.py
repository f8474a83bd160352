"""Notices that Ray itself is gone. Its driver would wait for a minute, and then end this process without a word."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from scaledl.distributed.ray import RayCluster

PERIOD_SECONDS = 0.5
SILENT_LOOKS = 6
PATIENCE_SECONDS = 5.0


class Watchdog:
    """`with Watchdog(cluster, last_words) as dog`: `dog.problem` says what was lost, once it is.

    When the block has not been left some seconds later, its thread hangs in Ray: `last_words(problem)` is called, and
    the process ended with exit code 1.
    """

    def __init__(self, cluster: RayCluster, last_words: Callable[[str], None]) -> None:
        self.problem = ""
        self._cluster, self._last_words = cluster, last_words
        self._left = threading.Event()
        self._silent = 0
        self._thread = threading.Thread(target=self._watch, name="ray-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._left.wait(PERIOD_SECONDS):
            self.problem = self._look()
            if self.problem:
                break
        if self.problem and not self._left.wait(PATIENCE_SECONDS):
            with suppress(BaseException):
                self._last_words(self.problem)
            os._exit(1)

    def _look(self) -> str:
        if reason := self._cluster.fail_reason(head_only=True):
            return reason
        self._silent = 0 if _answers(self._cluster.address) else self._silent + 1
        if self._silent < SILENT_LOOKS:
            return ""
        return f"the head of Ray at {self._cluster.address} does not answer any more"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False
