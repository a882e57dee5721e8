"""Sixteen sounds between four notes: python examples/grid.py model.safetensors nw.wav ne.wav sw.wav se.wav folder."""

import sys
from pathlib import Path

from wavenet_ae import audio, checkpoint, embeddings, figures, synthesis

SIZE = 4


def main(checkpoint_path: str, *corners_and_folder: str) -> None:
    """Mix bilinearly, generate all side by side, and draw them as they lie."""
    *corners, folder = corners_and_folder
    model = checkpoint.load(checkpoint_path)
    fingerprint = checkpoint.fingerprint(model)
    sounds = [embeddings.of_file(model, fingerprint, path) for path in corners]
    met = embeddings.align(sounds, "stretch")  # all as long as the longest
    mixes = embeddings.grid(*(sound.values for sound in met), rows=SIZE, columns=SIZE).flatten(0, 1)
    wanted = [synthesis.sound(model, f"{n // SIZE}_{n % SIZE}", mix, met[0].samples) for n, mix in enumerate(mixes)]
    waves = dict(synthesis.render(model.decoder, wanted, synthesis.Sampling(batch=SIZE * SIZE)))
    for n, sound in enumerate(wanted):
        audio.write(Path(folder) / f"{sound.name}.wav", waves[n])
    rows = [[(wanted[n].name, waves[n]) for n in range(start, start + SIZE)] for start in range(0, SIZE * SIZE, SIZE)]
    figures.sheet(Path(folder) / "grid.png", rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
