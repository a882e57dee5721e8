"""A long note that turns into others: python examples/morph_over_time.py model.safetensors a.wav b.wav ... out.wav."""

import sys

from wavenet_ae import audio, checkpoint, embeddings, synthesis


def main(checkpoint_path: str, *sounds_and_out: str) -> None:
    """Hold every note for twice its length, walk through them, and fade into silence."""
    *paths, out = sounds_and_out
    model = checkpoint.load(checkpoint_path)
    fingerprint, silence = checkpoint.fingerprint(model), embeddings.silence(model)
    met = embeddings.align([embeddings.of_file(model, fingerprint, path) for path in paths], "stretch")
    frames = met[0].values.shape[-1]
    held = [embeddings.sustain(each.values, 2 * frames, frames // 3, 2 * frames // 3, "loop") for each in met]
    walked = embeddings.morph(held, curve="cosine")
    faded = embeddings.fade(walked, silence, max(1, frames // 8))
    wanted = synthesis.sound(model, "morph", faded, faded.shape[-1] * model.hop)
    [(_, wave)] = synthesis.render(model.decoder, [wanted], synthesis.Sampling(temperature=0.9))
    audio.write(out, wave)


if __name__ == "__main__":
    main(*sys.argv[1:])
