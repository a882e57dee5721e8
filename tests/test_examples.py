"""The examples run as they stand, on the notes in the box."""

import runpy
import sys
from pathlib import Path

import pytest
from test_commands import save_model

from wavenet_ae import audio, notes

ROOT = Path(__file__).parents[1]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Run an example as `python examples/<name>.py model.safetensors ...` with so many notes of 0.1 s and more."""
    save_model(tmp_path / "model.safetensors")
    box = notes.load(str(ROOT / "data" / "notes"), "test")

    def run(name, count, out):
        paths = [tmp_path / f"{number}.wav" for number in range(count)]
        for number, path in enumerate(paths):
            audio.write(path, audio.read(box[number].path)[: 1600 + 600 * number])
        arguments = [tmp_path / "model.safetensors", *paths, tmp_path / out]
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return tmp_path / out

    return run


def test_two_notes_are_mixed(example):
    assert audio.inspect(example("mix_two_notes", 2, "mix.wav")).samples == 2200


def test_a_grid_is_sixteen_sounds_and_a_picture(example):
    folder = example("grid", 4, "grid")
    assert {audio.inspect(path).samples for path in folder.glob("*.wav")} == {1600 + 3 * 600}
    assert len(list(folder.glob("?_?.wav"))) == 16
    assert (folder / "grid.png").stat().st_size > 5000


def test_a_morph_lasts_twice_as_long_as_its_longest_note_in_whole_frames(example):
    assert audio.inspect(example("morph_over_time", 3, "morph.wav")).samples == 2 * -(-2800 // 512) * 512


def test_every_example_is_run_here():
    said = "".join((Path(__file__).parent / file).read_text() for file in ("test_examples.py", "test_probe.py"))
    names = [path.stem for path in (ROOT / "examples").glob("*.py")]
    assert len(names) == 4
    assert all(f'"{name}' in said for name in names)
