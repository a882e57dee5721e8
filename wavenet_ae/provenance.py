"""What a result says it was made with, so that one of another model or seed is not taken for the one asked for."""

from collections.abc import Iterable
from pathlib import Path

import soundfile

import wavenet_ae
from wavenet_ae import audio, embeddings
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.models.wavenet import WaveNetAutoencoder
from wavenet_ae.synthesis import Sampling

_MARK = "machine-made; "


def made_with(model: Autoencoder, fingerprint: str, sampling: Sampling) -> str:
    """All that decides a sound of an embedding, in words: the model, the seed and how is sampled."""
    names = ("temperature", "top_p") if isinstance(model, WaveNetAutoencoder) else ("iterations", "momentum")
    settings = [f"{name} {getattr(sampling, name):g}" for name in names]
    return ", ".join([f"model {fingerprint}", f"seed {sampling.seed}", *settings])


def comment(made: str, source: str) -> str:
    """What goes into a sound's file, so that it can be known as made by a machine, by which and of what."""
    return f"wavenet_ae {wavenet_ae.__version__}: {_MARK}{made}, {source}"


def refuse_others(paths: Iterable[Path], made: str) -> None:
    """Check that results that are there already were made with what is asked for, given by the words of `made`.

    Raises:
        ValueError: one was not, or does not say; the message names it.
    """
    for path in paths:
        found = said_by(path)
        if not f"{found}, ".startswith(f"{made}, "):
            raise ValueError(
                f"{path} is there already, made with {found or 'what it does not say'}; asked for is {made}: give "
                "another folder by out=, or make it again by overwrite=true"
            )


def said_by(path: Path) -> str:
    """What a sound or an embedding says it was made with; "" if nothing."""
    if path.suffix.lower() in embeddings.SUFFIXES:
        return f"model {embeddings.read(path).model}"
    audio.inspect(path)
    with soundfile.SoundFile(path) as file:
        return file.comment.partition(_MARK)[2]
