"""Sounds in and out: every format, every fault, and the level and pitch of what is resampled."""

import math

import numpy as np
import pytest
import soundfile
import torch

from wavenet_ae import audio


def sine(hz, rate=audio.SAMPLE_RATE, seconds=1.0, level=0.5):
    return level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def level_at(wave, hz):
    """The amplitude of one frequency (Hz) in the middle half of a wave at 16 kHz."""
    middle = wave[len(wave) // 4 : 3 * len(wave) // 4].double().numpy()
    window = np.hanning(len(middle))
    turn = np.exp(-2j * np.pi * hz * np.arange(len(middle)) / audio.SAMPLE_RATE)
    return 2 * abs((middle * window * turn).sum()) / window.sum()


@pytest.fixture(autouse=True)
def nothing_was_said_yet():
    audio._said.clear()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".WAV"])
def test_every_16_bit_value_is_written_and_read_bit_for_bit(tmp_path, suffix):
    values = np.arange(-32768, 32768).astype(np.int16)
    audio.write(tmp_path / f"a{suffix}", torch.from_numpy(values / np.float32(32768)))
    stored, rate = soundfile.read(tmp_path / f"a{suffix}", dtype="int16")
    assert rate == 16_000
    assert np.array_equal(stored, values)
    wave = audio.read(tmp_path / f"a{suffix}")
    audio.write(tmp_path / f"b{suffix}", wave)
    assert torch.equal(audio.read(tmp_path / f"b{suffix}"), wave)
    assert wave.dtype == torch.float32
    assert wave.min() == -1


def test_what_is_too_loud_is_clipped_not_wrapped(tmp_path):
    audio.write(tmp_path / "a.wav", torch.tensor([1.0, 1.5, -1.5]))
    assert audio.read(tmp_path / "a.wav").tolist() == [32767 / 32768, 32767 / 32768, -1.0]


def test_float_wavs_keep_every_bit(tmp_path):
    wave = torch.randn(1000)
    audio.write(tmp_path / "a.wav", wave, subtype="FLOAT")
    assert torch.equal(audio.read(tmp_path / "a.wav"), wave)


@pytest.mark.parametrize(
    ("suffix", "subtype", "error"),
    [
        *[("wav", "PCM_24", 1e-6), ("wav", "PCM_U8", 0.01), ("wav", "DOUBLE", 1e-7), ("flac", "PCM_24", 1e-6)],
        *[("ogg", "VORBIS", 0.05), ("mp3", "MPEG_LAYER_III", 0.05), ("aiff", "PCM_16", 1e-4)],
        *[("au", "PCM_16", 1e-4), ("caf", "PCM_16", 1e-4), ("w64", "PCM_16", 1e-4)],
    ],
)
def test_formats_of_all_kinds_are_read(tmp_path, suffix, subtype, error, caplog):
    wave = sine(440)
    soundfile.write(tmp_path / f"a.{suffix}", wave, 16_000, subtype=subtype)
    read = audio.read(tmp_path / f"a.{suffix}")
    assert read.shape == (16_000,)
    assert np.abs(read.numpy() - wave).max() < error
    assert not caplog.records, "16 kHz mono is nothing to remark on"
    assert f".{suffix}" in audio.SUFFIXES


def test_channels_are_averaged_and_the_notice_is_said_once(tmp_path, caplog):
    left, right = sine(440), sine(1000)
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", np.stack([left, right], axis=1), 16_000, subtype="DOUBLE")
        wave = audio.read(tmp_path / f"{name}.wav")
    np.testing.assert_allclose(wave.numpy(), (left + right) / 2, atol=1e-6)
    assert caplog.messages == [f"2 channels averaged to one (said once; first in {tmp_path / 'a.wav'})"]
    soundfile.write(tmp_path / "d.wav", np.stack([left, right], axis=1), 48_000)
    audio.read(tmp_path / "d.wav")
    assert caplog.messages[1].startswith("2 channels averaged to one and 48000 Hz resampled to 16000 Hz (said once;")


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_level_and_length(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", sine(1000, rate), rate, subtype="FLOAT")
    wave = audio.read(tmp_path / "a.wav")
    assert wave.shape == (16_000,)
    assert abs(level_at(wave, 1000) - 0.5) < 1e-3
    rest = wave[4000:12000].numpy() - sine(1000)[4000:12000]
    assert 20 * math.log10(np.abs(rest).max() / 0.5) < -60, "nothing else than that sine"


def test_resampling_removes_what_16_khz_cannot_hold():
    loud = torch.from_numpy(sine(7000, 44_100) + sine(9000, 44_100) + sine(15_000, 44_100)).float()
    wave = audio.resample(loud, 44_100)
    assert abs(level_at(wave, 7000) - 0.5) < 5e-3, "the pass band is left alone"
    assert 20 * math.log10(level_at(wave, 7000) / level_at(wave, 1000)) > 80, "15 kHz does not fold back to 1 kHz"
    middle = audio.resample(torch.from_numpy(sine(9000, 44_100)).float(), 44_100)[4000:12000]
    assert 20 * math.log10(middle.abs().max() / 0.5) < -80, "nor 9 kHz to 7 kHz"


def test_a_part_is_read_by_seeking(tmp_path):
    for suffix in (".wav", ".flac"):
        audio.write(tmp_path / f"a{suffix}", torch.from_numpy(sine(440)).float())
        whole = audio.read(tmp_path / f"a{suffix}")
        assert torch.equal(audio.read(tmp_path / f"a{suffix}", 5000, 5123), whole[5000:5123])
        assert torch.equal(audio.read(tmp_path / f"a{suffix}", 15_990, 17_000), whole[15_990:]), "to the end at most"


def broken(tmp_path, name):
    """A file with the fault its name says."""
    path, fault = tmp_path / name, name.split(".")[0]
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    if fault in ("nan", "inf"):
        noise[[7, 70]] = float(fault)
        soundfile.write(path, noise, 16_000, subtype="FLOAT")
    elif fault == "folder":
        path.mkdir()
    elif fault != "missing":
        soundfile.write(path, noise[: 0 if fault == "nosamples" else None], 16_000)
        whole = path.read_bytes()
        contents = {
            "empty": b"",
            "truncated": whole[: len(whole) * 6 // 10],
            "headeronly": whole[:30],
            "text": b"a shopping list\n" * 50,
            "random": np.random.default_rng(0).bytes(5000),
        }
        path.write_bytes(contents.get(fault, whole))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("missing.wav", FileNotFoundError, "is not there: expected an audio file"),
        ("folder.wav", FileNotFoundError, "is a folder: expected an audio file"),
        ("empty.wav", ValueError, r"cannot be read as audio: the file is empty \(0 bytes\)"),
        ("truncated.wav", ValueError, "is truncated: its header promises more than is there"),
        ("truncated.aiff", ValueError, "is truncated"),
        ("truncated.au", ValueError, "is truncated"),
        ("truncated.w64", ValueError, "is truncated"),
        ("truncated.flac", ValueError, "cannot be read as audio: flac decoder lost sync"),
        ("truncated.mp3", ValueError, r"is truncated: its header promises 8000 samples, \d+ were read"),
        ("truncated.ogg", ValueError, "holds no samples|is truncated|cannot be read"),
        ("headeronly.wav", ValueError, "cannot be read as audio: Error in WAV file. No 'data' chunk marker"),
        ("nosamples.wav", ValueError, "holds no samples: expected a sound of at least one sample"),
        ("nan.wav", ValueError, "holds 2 values that are NaN or infinite: expected numbers in"),
        ("inf.wav", ValueError, "holds 2 values that are NaN or infinite"),
        ("text.wav", ValueError, "cannot be read as audio: Format not recognised"),
        ("random.wav", ValueError, "cannot be read as audio"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, kind, message):
    path = broken(tmp_path, name)
    with pytest.raises(kind, match=message) as raised:
        audio.read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_made_by_a_pipe_lasts_as_long_as_it_does(tmp_path, length):
    """ffmpeg and sox cannot go back to fill in a length when they write into a pipe."""
    path = tmp_path / "a.wav"
    audio.write(path, torch.from_numpy(sine(440)).float())
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[4:8] = data[at + 4 : at + 8] = length.to_bytes(4, "little")
    path.write_bytes(data)
    assert audio.read(path).shape == (16_000,)


def test_a_file_that_may_not_be_read_says_so(tmp_path, unprivileged):
    path = tmp_path / "a.wav"
    audio.write(path, torch.zeros(10))
    path.chmod(0o200)
    with unprivileged(tmp_path), pytest.raises(ValueError, match=r"Permission denied \(check its permissions\)"):
        audio.read(path)


def test_the_comment_can_be_found_in_the_file(tmp_path):
    audio.write(tmp_path / "a.wav", torch.zeros(100), comment="machine-made: model 0123, seed 7, viola.wav")
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert file.comment == "machine-made: model 0123, seed 7, viola.wav"
    data = (tmp_path / "a.wav").read_bytes()
    assert data[:4] == b"RIFF"
    assert b"INFOICMT" in data, "RIFF INFO, where players and editors look for it"
    assert audio.read(tmp_path / "a.wav").shape == (100,)


@pytest.mark.parametrize("wave", [torch.zeros(0), torch.tensor([0.0, float("nan")]), torch.tensor([float("inf")])])
def test_nothing_and_nan_are_not_written(tmp_path, wave):
    path = tmp_path / "a.wav"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"a\.wav was not written: its \d samples are empty, NaN or infinite"):
        audio.write(path, wave)
    assert path.read_text() == "old"


@pytest.mark.parametrize(("name", "subtype"), [("a", "PCM_16"), ("a.xyz", "PCM_16"), ("a.wav", "FOO")])
def test_a_format_that_cannot_be_written_says_what_can(tmp_path, name, subtype):
    with pytest.raises(ValueError, match=f"does not hold {subtype}: expected PCM_16, PCM_24 or FLOAT in a .wav"):
        audio.write(tmp_path / name, torch.zeros(10), subtype=subtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [44_101, 22_255])
def test_odd_rates_are_resampled_too_and_without_gigabytes(rate):
    time = torch.arange(rate, dtype=torch.float64) / rate
    wave = torch.sin(2 * math.pi * 440 * time).float()
    heard = audio.resample(wave, rate)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(heard.numel()) / audio.SAMPLE_RATE)
    assert abs(heard.numel() - audio.SAMPLE_RATE) <= 1
    assert (heard - expected)[500:-500].abs().max() < 1e-3
