"""Half of one note, half of another: python examples/mix_two_notes.py model.safetensors a.wav b.wav mix.wav."""

import sys

from wavenet_ae import audio, checkpoint, embeddings, synthesis


def main(checkpoint_path: str, first: str, second: str, out: str) -> None:
    """Encode both, take the middle, and listen to it."""
    model = checkpoint.load(checkpoint_path)
    fingerprint = checkpoint.fingerprint(model)
    sounds = [embeddings.of_file(model, fingerprint, path) for path in (first, second)]
    a, b = embeddings.align(sounds, "pad", embeddings.silence(model))  # the shorter one ends in encoded silence
    middle = embeddings.mix([a.values, b.values], [0.5, 0.5])
    wanted = synthesis.sound(model, "mix", middle, a.samples)
    [(_, wave)] = synthesis.render(model.decoder, [wanted], synthesis.Sampling(seed=0))
    audio.write(out, wave, comment=f"machine-made: half {first}, half {second}, model {fingerprint}, seed 0")


if __name__ == "__main__":
    main(*sys.argv[1:])
