"""A run's folder: the states it keeps, and what a kill, a full disk or a damaged file costs."""

from pathlib import Path

import pytest
import torch

from wavenet_ae.training.run import Run


def state(value):
    return {"weights": torch.full((3,), float(value)), "scalar": torch.tensor(value)}


def test_the_last_two_states_are_kept_and_come_back_with_the_dice(tmp_path):
    run = Run(tmp_path)
    for step in (10, 20, 30):
        torch.manual_seed(step)
        run.save(step, state(step))
    expected = torch.rand(3)
    assert run.states() == [20, 30]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "state-00000020.safetensors",
        "state-00000030.safetensors",
    ]
    torch.manual_seed(0)
    step, restored = Run(tmp_path).restore()
    assert step == 30
    assert restored.keys() == state(30).keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in state(30).items())
    assert torch.equal(torch.rand(3), expected)


def test_an_earlier_state_can_be_gone_back_to_and_nothing_newer_is_lost(tmp_path):
    run = Run(tmp_path)
    for step in (10, 20):
        run.log(step - 5, {"nats": 1.0})
        run.log(step, {"nats": 1.0})
        run.save(step, state(step))
    run.log(25, {"nats": 1.0})
    step, restored = run.restore(10)
    assert (step, int(restored["scalar"])) == (10, 10)
    assert run.states() == [10]
    assert (tmp_path / "states" / "state-00000020.set-aside").exists()
    assert [line["step"] for line in run.metrics()] == [5, 10], "what was measured later is measured again"
    with pytest.raises(ValueError, match="has no state to resume from of step 20: found 10; choose one of these"):
        run.restore(20)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "another file"])
def test_a_damaged_state_is_refused_by_name_and_the_one_before_offered(tmp_path, damage):
    run = Run(tmp_path)
    run.save(10, state(10))
    run.save(20, state(20))
    path = tmp_path / "states" / "state-00000020.safetensors"
    data = bytearray(path.read_bytes())
    at = data.index(torch.full((3,), 20.0).numpy().tobytes())
    flipped = bytes(data[: at + 1]) + bytes([data[at + 1] ^ 1]) + bytes(data[at + 2 :])
    path.write_bytes({"flipped": flipped, "truncated": data[:-10], "empty": b"", "another file": b"x" * 99}[damage])
    run.log(15, {"nats": 1.0})
    with pytest.raises(ValueError, match=r"state-00000020\.safetensors is damaged: .*of step 10: add resume_step=10"):
        run.restore()
    assert [line["step"] for line in run.metrics()] == [15], "nothing was changed by trying"
    assert run.restore(10)[0] == 10
    assert run.states() == [10]
    first = tmp_path / "states" / "state-00000010.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"state-00000010\.safetensors is damaged: .*start anew"):
        run.restore()


def test_what_a_killed_run_left_half_written_is_swept_up(tmp_path):
    run = Run(tmp_path)
    run.save(10, state(10))
    (tmp_path / "states" / ".state-00000020.ab12cd34.partial.safetensors").write_bytes(b"half")
    run.log(10, {"nats": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "na')
    assert run.restore()[0] == 10
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["state-00000010.safetensors"]
    run.log(11, {"nats": 2.0})
    assert [(line["step"], line["nats"]) for line in run.metrics()] == [(10, 1.0), (11, 2.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_measurements_on_a_full_disk_stop_with_a_message(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl: No space left on device; free space and resume"):
        Run(tmp_path).log(1, {"nats": 1.0})
