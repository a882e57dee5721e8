"""Work shared out: one process, several or a cluster do the same, and none of them can take it down with it."""

import contextlib
import os
import signal

import jobs
import pytest
import torch

from wavenet_ae import workers
from wavenet_ae.workers import Lost, cluster, shared


@pytest.fixture(params=[0, 1, 2, "ray"])
def where(request):
    """Everywhere that work can be done."""
    return request.getfixturevalue("ray") and "ray" if request.param == "ray" else request.param


@pytest.fixture(params=[1, 2, "ray"])
def elsewhere(request):
    """Not in this process."""
    return request.getfixturevalue("ray") and "ray" if request.param == "ray" else request.param


def test_results_come_in_the_order_of_the_jobs(where):
    over = []
    assert list(shared(jobs.doubling, range(20), where, done=over.append)) == list(range(0, 40, 2))
    assert sorted(over) == list(range(20))
    assert list(shared(jobs.doubling, [], where)) == []


def test_a_killed_process_costs_no_job_and_one_that_kills_all_is_named(elsewhere, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    results = list(shared(jobs.dying, [("a", 0), ("b", 2), ("c", 0), ("d", 99), ("e", 0)], elsewhere))
    assert results[:3] == [0, 2, 0]
    assert results[4] == 0
    assert isinstance(results[3], Lost)
    assert f"was lost {workers.TRIES} times" in str(results[3])
    assert len(list(tmp_path.glob("d.*"))) == workers.TRIES
    assert caplog.text.count("what it did is done again") == 4
    if elsewhere != "ray":
        assert "it ended by SIGKILL" in str(results[3])


def test_a_process_lost_as_it_starts_is_told_and_replaced(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert list(shared(jobs.stillborn_once, range(4), 1)) == [0, 2, 4, 6]
    assert "a process was lost as it started (it ended by SIGKILL): another is started" in caplog.text


def test_an_error_is_a_result_and_what_is_said_is_said_here(where, caplog):
    results = list(shared(jobs.failing, range(7), where))
    assert [result for result in results if not isinstance(result, Exception)] == [0, 2, 4, 6]
    assert isinstance(results[1], ValueError)
    assert str(results[1]) == "one is no good"
    assert isinstance(results[3], FileNotFoundError)
    assert (results[3].errno, results[3].filename) == (2, "three.wav")
    assert isinstance(results[5], RuntimeError)
    assert "a and b" in str(results[5])
    assert [caplog.text.count(f"job {n} is begun") for n in range(7)] == [1] * 7
    with pytest.raises(KeyError, match="our own mistake"):
        list(shared(jobs.failing, range(6, 9), where))


def test_a_start_that_fails_ends_the_work_with_its_reason(where):
    with pytest.raises(ValueError, match="the model is not there"):
        list(shared(jobs.unstartable, [1, 2], where))
    if where:
        with pytest.raises(RuntimeError, match="no process for the work can be started"):
            list(shared(jobs.stillborn, [1, 2], where))


def test_local_processes_share_the_cores_and_none_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    work = [(str(tmp_path / f"{n}"), 0.0) for n in range(6)]
    pids = set(shared(jobs.writing, work, 2))
    assert len(pids) <= 2
    assert os.getpid() not in pids
    assert {path.read_text().split()[1] for path in tmp_path.iterdir()} == {"2"}
    assert all(not alive(pid) for pid in pids)
    results = shared(jobs.writing, [(str(tmp_path / "now"), 0.0), (str(tmp_path / "later"), 60.0)], 2)
    with contextlib.closing(results):
        first = next(results)
    assert not alive(first)
    assert not (tmp_path / "later").exists(), "who asks for no more gets no more"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_outlives_an_interrupt_that_is_its_parent_s_and_not_its_parent(tmp_path):
    results = shared(jobs.writing, [(str(tmp_path / f"{n}"), 0.3) for n in range(3)], 1)
    first = next(results)
    os.kill(first, signal.SIGINT)
    assert [next(results), next(results)] == [first, first]
    results.close()
    assert not alive(first)


@pytest.mark.parametrize("given", [-1, 1.5, "rays", True, None])
def test_workers_that_mean_nothing_are_refused(given):
    with pytest.raises(ValueError, match=r"expected 0 \(this process alone\), a number of processes, or ray"):
        workers.check(given)


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(cluster.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"Ray is not installed: pip install 'wavenet_ae\[ray\]'"):
        workers.check("ray")
