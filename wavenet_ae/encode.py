"""Turn sounds into embeddings: 16 numbers every 32 ms, in an .npz each.

Examples:
    python -m wavenet_ae.encode checkpoint=runs/small/model.safetensors input=note.wav
        writes embeddings/note.npz
    python -m wavenet_ae.encode checkpoint=nsynth.safetensors input=[viola.wav,flute.flac] out=mine
    python -m wavenet_ae.encode checkpoint=nsynth.safetensors input=recordings/ out=mine device=cuda
        a folder and all below it; files that are done are skipped, so the same command goes on after a stop
    python -m wavenet_ae.encode checkpoint=nsynth.safetensors input=recordings/ workers=8
        eight processes share the files; workers=ray: a Ray cluster, all of whose machines see the same folders
"""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, workers
from wavenet_ae.command import (
    audio_model,
    command,
    device_of_workers,
    finish,
    pending,
    required,
    same_model,
    sift,
)


@command
def main(cfg: DictConfig) -> None:
    """Check all inputs, then encode one after the other, or side by side."""
    required(cfg, "checkpoint", "input", "out")
    device = device_of_workers(cfg.device, cfg.workers)
    fingerprint = checkpoint.fingerprint(audio_model(cfg.checkpoint))
    made = f"model {fingerprint}"
    places = pending(cfg.input, audio.SUFFIXES, cfg.out, ".npz", made=made, overwrite=cfg.overwrite)
    paths, faults = sift(places, audio.inspect)
    start, jobs = partial(_encoder, cfg.checkpoint, fingerprint, device), [(path, places[path]) for path in paths]
    done = 0
    with tqdm(total=len(jobs), desc="encode", unit="file") as bar:
        each = workers.shared(start, jobs, cfg.workers, done=lambda _: bar.update(), gpu=device.startswith("cuda"))
        with closing(each) as results:
            for path, result in zip(paths, results, strict=True):
                if isinstance(result, workers.FAULTS):
                    faults[path] = str(result)
                elif isinstance(result, Exception):
                    raise result
                else:
                    done += 1
    finish(done, f"embeddings in {cfg.out}", faults)


def _encoder(path: str, fingerprint: str, device: str) -> Callable[[tuple[Path, Path]], None]:
    """A job is a sound and the place of its embedding."""
    model = same_model(path, fingerprint, device)

    def encode(job: tuple[Path, Path]) -> None:
        sound, place = job
        embeddings.write(place, embeddings.of_file(model, fingerprint, sound))

    return encode


if __name__ == "__main__":
    main()
