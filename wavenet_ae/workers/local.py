"""Processes on this machine, started afresh: one forked after FluidSynth or the CPU engine's threads would hang."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from wavenet_ae.workers.servant import Outcome, Servant, Start

_PATIENCE = 10  # seconds a process that is told to end may tidy up


class Processes:
    """So many of them, which share this one's threads."""

    def __init__(self, start: Start, size: int):
        self.start, self.size = start, size
        self.threads = max(1, torch.get_num_threads() // size)

    def hire(self) -> "Process":
        """Start one."""
        return Process(self.start, self.threads)

    def first(self, hands: Sequence["Process"]) -> "Process":
        """Wait for one that has something to say."""
        [said, *_] = wait([hand.pipe for hand in hands])
        return next(hand for hand in hands if hand.pipe is said)

    def close(self) -> None:
        """Each is ended by itself."""


class Process:
    """One of them, at the other end of a pipe."""

    def __init__(self, start: Start, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, start, threads, os.getcwd()), daemon=True)
        self.process.start()
        other.close()  # so that the process's end is the end of the pipe

    def give(self, job: Any) -> None:
        """Send a job; if the process has ended, that is what is heard next."""
        with contextlib.suppress(OSError):
            self.pipe.send(job)

    def heard(self) -> Outcome | str:
        """What it says, or how it ended."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            return f"it ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"

    def end(self) -> None:
        """Tell it to end, and see to it."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(_PATIENCE)
        self.process.kill()  # it may be deep in compiled code
        self.process.join()


def _serve(pipe: Connection, start: Start, threads: int, folder: str) -> None:
    """A process's life. An interrupt is its parent's matter; told to end, it removes what is half written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    status = 0
    try:
        servant = Servant(start, threads, folder)
        pipe.send(servant.ready())
        while True:
            pipe.send(servant.do(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, or wants no more
    except SystemExit:
        status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stderr.flush()
        os._exit(status)  # at once: libraries that are taken down must not meet a signal on the way
