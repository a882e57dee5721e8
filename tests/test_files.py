"""What stood there stays until the new file is whole; inputs are found, and say so when they are not."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from wavenet_ae import files


def visible_and_hidden(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), files.whole(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise error("stopped")
    assert path.read_text() == "old"
    assert visible_and_hidden(tmp_path) == ["a.txt"]


def test_a_file_appears_only_when_it_is_whole_in_a_folder_made_for_it(tmp_path):
    path = tmp_path / "new" / "folder" / "a.wav"
    with files.whole(path) as partial:
        assert partial.suffix == ".wav", "writers choose a format by the suffix"
        assert partial.parent == path.parent, "another disk could not rename"
        partial.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert visible_and_hidden(path.parent) == ["a.wav"]


def test_who_reads_the_old_file_reads_it_to_its_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with open(path) as reader:
        with files.whole(path) as partial:
            partial.write_text("new")
        assert reader.read() == "old", "the new file takes the name, it does not overwrite"
    assert path.read_text() == "new"


def test_what_is_written_can_be_read_by_others(tmp_path):
    (tmp_path / "plain").touch()
    with files.whole(tmp_path / "a.safetensors") as partial:
        save_file({"x": torch.zeros(1)}, partial)
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_long_names_in_any_script_have_room_for_a_temporary_name(tmp_path):
    path = tmp_path / f"{'音' * 80}.wav"  # 244 bytes of at most 255
    with files.whole(path) as partial:
        partial.write_text("all")
    assert path.exists()


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with (
        pytest.raises(OSError, match=r"cannot write .*folder.a.txt: .*nothing was changed"),
        files.whole(tmp_path / "folder" / "a.txt"),
    ):
        pass
    with pytest.raises(NotADirectoryError, match="folder is a file: expected a folder for the results"):
        files.outputs([tmp_path / "a.wav"], tmp_path / "folder", ".npz")
    with pytest.raises(NotADirectoryError, match="folder is a file"):
        files.outputs([tmp_path / "a.wav"], tmp_path / "folder" / "deeper", ".npz")


FULL_DISK = textwrap.dedent("""
    import resource, signal, sys, pathlib, torch
    from safetensors.torch import save_file
    from wavenet_ae import audio, embeddings, files
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    folder, noise = pathlib.Path(sys.argv[1]), torch.rand(10_700) * 2 - 1
    def tensors():
        with files.whole(folder / "a.safetensors") as partial:
            save_file({"x": torch.rand(10_000)}, partial)
    values = torch.rand(16, 1000)
    writers = [
        lambda: audio.write(folder / "a.wav", noise),
        lambda: audio.write(folder / "a.flac", noise),
        lambda: embeddings.write(folder / "a.npz", embeddings.Embedding(values, "", 512, 16000, 5, "a")),
        tensors,
    ]
    for write in writers:
        try:
            write()
            print("no error")
        except OSError as error:
            print(error)
""")


def test_a_full_disk_is_one_message_and_costs_no_file(tmp_path):
    pytest.importorskip("resource", reason="needs a limit on the size of files, which this system has not")
    names = ["a.wav", "a.flac", "a.npz", "a.safetensors"]
    for name in names:
        (tmp_path / name).write_text("old")
    script = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(names)
    for line, name in zip(said, names, strict=True):
        assert line.startswith(f"cannot write {tmp_path / name}: "), line
        assert "File too large" in line, "the reason, as the system gives it"
        assert line.endswith("; nothing was changed there")
        assert (tmp_path / name).read_text() == "old"
    assert visible_and_hidden(tmp_path) == sorted(names)


def test_a_folder_gives_its_sounds_in_order_whatever_the_case_of_their_suffix(tmp_path):
    for name in ("b.WAV", "a.wav", "sub/c.Flac", "notes.txt", ".hidden.wav", "sub/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    taken, left = files.gather(tmp_path, (".wav", ".flac"))
    assert [path.name for path in taken] == ["a.wav", "b.WAV", "c.Flac"]
    assert [path.name for path in left] == ["notes.txt"], "hidden files are left without mention"


def test_a_file_named_outright_is_taken_once_whatever_its_suffix(tmp_path):
    (tmp_path / "sound.raw").touch()
    (tmp_path / "a.wav").touch()
    taken, _ = files.gather([tmp_path / "sound.raw", tmp_path, tmp_path / "a.wav"], (".wav",))
    assert [path.name for path in taken] == ["sound.raw", "a.wav"]


def test_results_below_the_input_folder_are_no_input_of_the_next_run(tmp_path):
    for name in ("a.wav", "out/a.wav", "outside/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    taken, left = files.gather(tmp_path, (".wav",), out=tmp_path / "out")
    assert taken == [tmp_path / "a.wav", tmp_path / "outside" / "b.wav"]
    assert left == []
    named, _ = files.gather(tmp_path / "out", (".wav",), out=tmp_path / "out")
    assert named == [tmp_path / "out" / "a.wav"], "unless it is what was asked for"


def test_nothing_to_do_is_said_with_what_was_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: expected a file or a folder"):
        files.gather(tmp_path / "nowhere", (".wav",))
    with pytest.raises(FileNotFoundError, match=r"found nothing, expected files ending in \.flac \.wav"):
        files.gather(tmp_path, (".wav", ".flac"))
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match="found 1 other files, expected"):
        files.gather(str(tmp_path), (".wav",))
    with pytest.raises(FileNotFoundError, match="no input in an empty list"):
        files.gather([], (".wav",))


def test_results_are_called_as_their_inputs_and_collisions_are_refused(tmp_path):
    inputs = [tmp_path / "viola.wav", tmp_path / "a.b.flac"]
    places = files.outputs(inputs, tmp_path / "out", ".npz")
    assert [place.name for place in places.values()] == ["viola.npz", "a.b.npz"]
    with pytest.raises(ValueError, match=r"x/a\.wav and .*y/a\.flac would both become .*a\.npz: rename one, or"):
        files.outputs([tmp_path / "x" / "a.wav", tmp_path / "y" / "a.flac"], tmp_path, ".npz")
    with pytest.raises(ValueError, match=r"a\.wav would be overwritten by .*a\.wav: rename one, or give another"):
        files.outputs([tmp_path / "a.wav"], tmp_path, ".wav")


def test_a_folder_that_may_not_be_written_is_refused_first(tmp_path, unprivileged):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with unprivileged(tmp_path), pytest.raises(PermissionError, match="closed cannot be written to: check its perm"):
        files.outputs([tmp_path / "a.wav"], closed / "out", ".npz")
    assert os.access(closed, os.R_OK)
