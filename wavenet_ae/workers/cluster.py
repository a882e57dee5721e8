"""Processes on a Ray cluster: that of RAY_ADDRESS, or one started on this machine for the work alone."""

import importlib
import logging
import os
import re
import socket
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from wavenet_ae.workers.servant import Outcome, Servant, Start

_MEMORY = 200_000_000  # bytes for Ray's own store on a cluster of ours: what travels is small
_PATIENCE = 10  # seconds a cluster may take to answer
_WORDS = 200  # letters of Ray's reasons, which end in advice


def _knock(address: str) -> None:
    """Ray would wait for minutes for a machine that does not answer.

    Raises:
        OSError: nobody does.
    """
    if found := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address):
        socket.create_connection((found[1], int(found[2])), timeout=_PATIENCE).close()


def installed() -> ModuleType:
    """Ray, which few need.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ValueError("workers=ray, but Ray is not installed: pip install 'wavenet_ae[ray]'") from None


class Cluster:
    """As many processes as it has free cores, or, where each needs one, free GPUs.

    Raises:
        RuntimeError: there is none at RAY_ADDRESS, or it has no GPU.
    """

    def __init__(self, start: Start, gpu: bool):
        self.ray, self.start = installed(), start
        self.ours = not self.ray.is_initialized()
        if self.ours:
            self._connect()
        needed = "GPU" if gpu else "CPU"
        if not self.ray.cluster_resources().get(needed):
            self.close()
            raise RuntimeError(f"the Ray cluster has no {needed}: expected one or more; device=cpu needs no GPU")
        self.size = max(1, int(self.ray.available_resources().get(needed, 0)))
        self.kind = self.ray.remote(num_cpus=1, num_gpus=int(gpu), max_restarts=0)(Servant)

    def _connect(self) -> None:
        address, quiet = os.environ.get("RAY_ADDRESS"), {"log_to_driver": False, "logging_level": logging.ERROR}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        if not address or address == "local":
            self.ray.init("local", include_dashboard=False, object_store_memory=_MEMORY, **quiet)
            return
        try:
            _knock(address)
            self.ray.init(address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"no Ray cluster at RAY_ADDRESS={address} ({error}): start one, or unset it and one is started here; "
                "a cluster that asks for a token wants RAY_AUTH_MODE=token here too"
            ) from None

    def hire(self) -> "Actor":
        """Start one, on whichever machine has room."""
        return Actor(self.ray, self.kind.remote(self.start, 1, os.getcwd()))

    def first(self, hands: Sequence["Actor"]) -> "Actor":
        """Wait for one that has something to say."""
        [said, *_], _ = self.ray.wait([hand.due for hand in hands])
        return next(hand for hand in hands if hand.due == said)

    def close(self) -> None:
        """End the cluster if it was started here, else only the connection."""
        if self.ours:
            self.ray.shutdown()


class Actor:
    """One of them, and what it owes."""

    def __init__(self, ray: ModuleType, actor: Any):
        self.ray, self.actor = ray, actor
        self.due = actor.ready.remote()

    def give(self, job: Any) -> None:
        """Send a job."""
        self.due = self.actor.do.remote(job)

    def heard(self) -> Outcome | str:
        """What it says, or how it ended."""
        try:
            return self.ray.get(self.due)
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().split("\n")[-1]
            return reason if len(reason) < _WORDS else f"{reason[:_WORDS]} ..."

    def end(self) -> None:
        """Stop it at once; files are written whole or not at all."""
        self.ray.kill(self.actor)
