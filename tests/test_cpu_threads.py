"""The compiled engine's threads: neighbours, children, interrupts, and how many there should be."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from voices import inputs

from wavenet_ae import sampler
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import cpu
from wavenet_ae.sampler.cpu import kernel, meeting

SCRIPT = """
    import sys, torch
    from wavenet_ae import magenta, mulaw, sampler
    from wavenet_ae.models.wavenet import Decoder
    torch.manual_seed(0)
    decoder = Decoder(layers=6, stages=3, width=130, skip_width=70, kernel_size=3, embedding_dims=4, hop=64)
    uniform = torch.rand(2, 128, dtype=torch.float64)
    from wavenet_ae.sampler import cpu
    voices = cpu.Voices(decoder.eval(), 2, threads=int(sys.argv[1]))
    print(voices.generate(torch.ones(2, 4, 2), uniform).sum().item())
    assert not cpu.run.stats.cache_misses, "compiled again"
"""


def test_a_second_process_starts_at_once_and_one_core_carries_many_threads(tiny):
    sampler.open_voices(tiny(torch.float32), 1, engine="cpu").generate(*inputs(tiny(torch.float32), frames=1))
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    sums = []
    for threads, alone in ((1, False), (2, True), (4, True), (8, False)):
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(threads)]
        pin = (lambda: os.sched_setaffinity(0, {core})) if alone and core is not None else None
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=pin)
        assert done.returncode == 0, done.stderr
        sums.append(done.stdout)
    assert len(set(sums)) == 1


def child(decoder, embedding, uniform, queue):
    queue.put(cpu.Voices(decoder, 2, threads=2).generate(embedding, uniform).tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning"
)  # Python 3.12 warns: threads might be running; none is
def test_a_child_process_generates_too(tiny, method):
    decoder = tiny(torch.float32, width=70)
    embedding, uniform = inputs(decoder, batch=2, frames=3)
    expected = cpu.Voices(decoder, 2, threads=2).generate(embedding, uniform)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child, args=(decoder, embedding, uniform, queue))
    process.start()
    assert queue.get(timeout=60) == expected.tolist()
    process.join(10)
    assert process.exitcode == 0


def test_python_goes_on_meanwhile_and_nobody_stays_behind():
    decoder = Decoder(layers=3, stages=3, width=512, skip_width=256, kernel_size=3, embedding_dims=16, hop=512).eval()
    embedding, uniform = inputs(decoder, frames=1)
    voices, turns = cpu.Voices(decoder, 1, threads=2), 0
    voices.generate(embedding, uniform)
    before = threading.active_count()
    worker = threading.Thread(target=voices.generate, args=(embedding.repeat(1, 1, 4), uniform.repeat(1, 4)))
    worker.start()
    while worker.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns >= 5
    assert threading.active_count() == before


def test_an_interrupt_leaves_no_thread_waiting(tiny, monkeypatch):
    voices = cpu.Voices(tiny(torch.float32), 1, threads=3)
    true_run = cpu.run

    def interrupted(w, s, frame, share):
        if share.thread == 0:
            raise KeyboardInterrupt
        return true_run(w, s, frame, share)

    monkeypatch.setattr(cpu, "run", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        voices.generate(*inputs(tiny(torch.float32), frames=1))
    assert threading.active_count() == before


def test_an_interrupt_after_a_frame_loses_nothing(tiny, monkeypatch):
    decoder, true_join = tiny(torch.float32, hop=5), threading.Thread.join  # 5 turns no ring to where it began
    embedding, uniform = inputs(decoder, frames=3)
    voices = cpu.Voices(decoder, 1, threads=2)

    def interrupted(thread):
        true_join(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            voices.generate(embedding[..., :1], uniform[:, :5])
    expected = cpu.Voices(decoder, 1, threads=2).generate(embedding, uniform)[:, 5:]
    assert torch.equal(voices.generate(embedding[..., 1:], uniform[:, 5:]), expected)


LOSS = """
    import threading, torch
    from wavenet_ae.models.wavenet import Decoder
    from wavenet_ae.sampler import cpu
    true_run = cpu.run

    def lost(w, s, frame, share):
        if share.thread == 1:
            raise MemoryError("no room for sums")
        return true_run(w, s, frame, share)

    torch.manual_seed(0)
    decoder = Decoder(layers=6, stages=3, width=130, skip_width=70, kernel_size=3, embedding_dims=4, hop=64)
    voices = cpu.Voices(decoder.eval(), 1, threads=3)
    cpu.run = lost
    try:
        voices.generate(torch.ones(1, 4, 1), torch.rand(1, 64, dtype=torch.float64))
    except MemoryError as error:
        print(error, threading.active_count())
    cpu.run = true_run
    try:
        voices.generate(torch.ones(1, 4, 1), torch.rand(1, 64, dtype=torch.float64))
    except RuntimeError as error:
        print(error)
"""


def test_a_thread_that_fails_ends_the_call(tiny):
    sampler.open_voices(tiny(torch.float32), 1, engine="cpu").generate(*inputs(tiny(torch.float32), frames=1))
    command = [sys.executable, "-c", textwrap.dedent(LOSS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "no room for sums 1",
        "these voices were broken off inside a frame and cannot go on: open new ones",
    ], done.stderr


def test_an_abandoned_frame_is_left_at_once(tiny):
    voices = cpu.Voices(tiny(torch.float32), 1)
    (told,), (die,) = voices._told(torch.ones(1, 4, 1)), np.full((1, 1, 8), 0.5)
    code = np.full((1, 8), -1)
    voices.state.meetings[cpu.ABANDONED] = 1
    frame = kernel.Frame(told, die, False, code, voices._no_logits(), 1.0, 1.0, 0)
    cpu.run(voices.weights, voices.state, frame, meeting.Share(0, 1, 0))
    assert (code == -1).all()


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4), (None, 4)],
)
def test_cores_are_those_that_may_be_used(tmp_path, monkeypatch, quota, expected):
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(cpu, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5, 7}, raising=False)
    assert cpu.cores() == expected


def test_threads_must_be_some(tiny):
    with pytest.raises(ValueError, match="threads is 0: expected at least 1"):
        cpu.Voices(tiny(), 1, threads=0)


def test_a_crew_leaves_the_core_that_a_neighbour_took_and_comes_back():
    crew, sizes = cpu.Crew(4), []
    for core_seconds in [4.0, 3.9, 2.6, *[2.0] * 8, 3.0, *[2.9] * 5]:  # of a frame that takes a second
        crew.learn(1.0, core_seconds)
        sizes.append(crew.size)
    assert sizes[:3] == [4, 4, 2], "an absence of a tenth is borne, of more than one thread is not"
    assert sizes[3:11] == [2] * 7 + [4], "eight frames later all are tried again"
    assert sizes[11:] == [3] * 6, "in vain: it is smaller again, for twice as long"


@given(st.integers(1, 16), st.lists(st.floats(0, 2), max_size=50))
def test_a_crew_has_always_someone_in_it(most, presence):
    crew = cpu.Crew(most)
    for share in presence:
        crew.learn(1.0, share * crew.size)
        assert 1 <= crew.size <= most


def test_the_size_of_the_crew_changes_nothing(tiny, monkeypatch):
    decoder = tiny(torch.float32, width=130)
    expected = cpu.Voices(decoder, 2, threads=1).generate(*inputs(decoder, batch=2))
    monkeypatch.setattr(cpu, "_worthwhile", lambda weights, voices: 3)
    voices, sizes = cpu.Voices(decoder, 2), []

    def alternate(wall, busy):
        sizes.append(voices.crew.size)
        voices.crew.size = voices.crew.size % 3 + 1

    voices.crew.learn = alternate
    assert torch.equal(voices.generate(*inputs(decoder, batch=2)), expected)
    assert set(sizes) == {1, 2, 3}
    assert cpu.Voices(decoder, 2, threads=2).crew is None, "who says how many threads gets them"
