"""Turn sounds into embeddings: 16 numbers every 32 ms, in an .npz each.

Examples:
    python -m wavenet_ae.encode checkpoint=runs/small/model.safetensors input=note.wav
        writes embeddings/note.npz
    python -m wavenet_ae.encode checkpoint=nsynth.safetensors input=[viola.wav,flute.flac] out=mine
    python -m wavenet_ae.encode checkpoint=nsynth.safetensors input=recordings/ out=mine device=cuda
        a folder and all below it; files that are done are skipped, so the same command goes on after a stop
"""

from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings
from wavenet_ae.command import audio_model, command, device_named, finish, pending, required, sift


@command
def main(cfg: DictConfig) -> None:
    """Check all inputs, then encode one after the other."""
    required(cfg, "checkpoint", "input", "out")
    model = audio_model(cfg.checkpoint).to(device_named(cfg.device))
    fingerprint = checkpoint.fingerprint(model)
    made = f"model {fingerprint}"
    places = pending(cfg.input, audio.SUFFIXES, cfg.out, ".npz", made=made, overwrite=cfg.overwrite)
    paths, faults = sift(places, audio.inspect)
    done = 0
    for path in tqdm(paths, desc="encode", unit="file"):
        try:
            embeddings.write(places[path], embeddings.of_file(model, fingerprint, path))
            done += 1
        except ValueError as error:
            faults[path] = str(error)
    finish(done, f"embeddings in {cfg.out}", faults)


if __name__ == "__main__":
    main()
