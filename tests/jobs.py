"""Work for other processes to do, which they import: see test_workers.py."""

import logging
import os
import signal
import time
from pathlib import Path

import torch

log = logging.getLogger("wavenet_ae")


def doubling():
    return lambda job: 2 * job


def writing():
    """A job is (path, moment): write a few bytes there, after a while."""

    def write(job):
        path, wait = job
        time.sleep(wait)
        Path(path).write_text(f"{path} {torch.get_num_threads()}\n")
        return os.getpid()

    return write


def dying():
    """A job is (path, deaths): die so many times, then say how often that was."""

    def die(job):
        path, deaths = job
        before = len(list(Path().glob(f"{path}.*")))
        if before < deaths:
            Path(f"{path}.{before}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return before

    return die


def failing():
    """Odd jobs fail in the way of their number."""

    def fail(job):
        log.warning("job %d is begun", job)
        if job == 1:
            raise ValueError("one is no good")
        if job == 3:
            raise FileNotFoundError(2, "not there", "three.wav")
        if job == 5:
            raise Untransportable("a", "b")
        if job == 7:
            raise KeyError("our own mistake")
        return job

    return fail


def unstartable():
    raise ValueError("the model is not there")


def stillborn():
    os._exit(3)


class Untransportable(RuntimeError):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def stillborn_once():
    """The first process ends as it starts; those after it double."""
    if not Path("stillborn").exists():
        Path("stillborn").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return doubling()
