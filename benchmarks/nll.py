"""What small numbers cost: the likelihood of real notes with bf16, int8 and fp16 weights against fp32.

    python -m benchmarks.nll --checkpoint model.safetensors
    python -m benchmarks.nll --checkpoint model.safetensors --engine cuda          # where a GPU is

Notes of the test split, evenly spread over its list; the decoder is told every sample before the one it
predicts. The same engine scores each precision that it has, so that only how it stores numbers differs.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import record
from wavenet_ae import audio, mulaw, notes, sampler
from wavenet_ae.audio import SAMPLE_RATE
from wavenet_ae.checkpoint import describe, fingerprint
from wavenet_ae.command import audio_model
from wavenet_ae.models.wavenet import WaveNetAutoencoder
from wavenet_ae.notes import Note

ENGINES = ("cpu", "batched", "cuda", "clusters")
COLUMNS = {
    "precision": "", "nll": ".5f", "change": "+.5f", "worst_note": "+.5f", "mean_abs": ".5f", "max_abs": ".4f",
}  # fmt: skip
NOTE = """
nll: nats a sample; change: of its mean over all notes, against fp32; worst_note: of the note that changed most.
mean_abs, max_abs: difference of log-probabilities, over all samples and all 256 codes of each."""


def main() -> None:
    """Score, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--corpus", default="data/notes")
    parser.add_argument("--notes", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each note, from its beginning")
    parser.add_argument("--engine", choices=ENGINES, default="cpu")
    parser.add_argument("--device", help="of the decoder; default: a GPU for cuda and clusters, else the CPU")
    parser.add_argument("--threads", type=int, help="of the engine cpu; default: as many as have enough to do")
    parser.add_argument("--no-record", action="store_true", help="print only")
    asked = parser.parse_args()
    model, meta = audio_model(asked.checkpoint), describe(asked.checkpoint)
    if not isinstance(model, WaveNetAutoencoder):
        parser.error(f"{asked.checkpoint} holds a {type(model).__name__}: expected a WaveNetAutoencoder")
    chosen = spread(notes.load(asked.corpus, "test"), asked.notes)
    code, embedding = heard(model, chosen, asked.seconds)
    if missing := sampler.unavailable(asked.engine, model.decoder):
        parser.error(f"engine {asked.engine!r} cannot run here: {missing}")
    about = {"fingerprint": fingerprint(model), **meta._asdict()}
    device = torch.device(asked.device or ("cuda" if asked.engine in ("cuda", "clusters") else "cpu"))
    model.decoder.to(device)
    held = [each for each in sampler.PRECISIONS if not sampler.unavailable(asked.engine, model.decoder, each)]
    exact, rows = scored(model, code, embedding, "fp32", asked), []
    for precision in held:
        log_p = exact if precision == "fp32" else scored(model, code, embedding, precision, asked)
        rows.append({"precision": precision, **compared(exact, log_p, code)})
    record.show(rows, COLUMNS)
    print(NOTE)
    if not asked.no_record:
        heard_notes = [note.name for note in chosen]
        settings = {**vars(asked), "model": about, "notes": heard_notes, "samples_a_note": code.shape[-1]}
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        print(record.write("nll", rows, {"gpu": gpu} if gpu else {}, settings, hardware=gpu))


def spread(found: Sequence[Note], count: int) -> list[Note]:
    """So many notes, evenly spread."""
    count = min(count, len(found))
    return [found[len(found) * n // count] for n in range(count)]


def heard(model: WaveNetAutoencoder, chosen: Sequence[Note], seconds: float) -> tuple[Tensor, Tensor]:
    """The codes of the notes' beginnings, whole frames, and the embeddings that the decoder reads."""
    samples = max(1, round(seconds * SAMPLE_RATE / model.hop)) * model.hop
    waves = [audio.read(note.path)[:samples] for note in chosen]
    wave = torch.stack([torch.nn.functional.pad(wave, (0, samples - len(wave))) for wave in waves])
    with torch.inference_mode():
        pitch = torch.tensor([note.pitch for note in chosen])
        return mulaw.encode(wave), model.condition(model.embed(wave), pitch)


def scored(
    model: WaveNetAutoencoder, code: Tensor, embedding: Tensor, precision: str, asked: argparse.Namespace
) -> Tensor:
    """Log-probabilities, [note, code, sample], by the engine asked for."""
    began = time.perf_counter()
    settings = {"engine": asked.engine, "threads": asked.threads}
    log_p = sampler.score(model.decoder, code, embedding, precision=precision, **settings)
    print(f"{precision}: {time.perf_counter() - began:.0f} s", flush=True)
    return log_p


def compared(exact: Tensor, log_p: Tensor, code: Tensor) -> dict[str, float]:
    """One row: how likely the notes are, and how far that is from the exact weights' opinion."""
    nll = -log_p.gather(1, code.unsqueeze(1)).squeeze(1).double().mean(1)
    change = nll + exact.gather(1, code.unsqueeze(1)).squeeze(1).double().mean(1)
    apart = (log_p - exact).abs()
    return {
        "nll": nll.mean().item(),
        "change": change.mean().item(),
        "worst_note": change[change.abs().argmax()].item(),
        "mean_abs": apart.double().mean().item(),
        "max_abs": apart.max().item(),
    }


if __name__ == "__main__":
    main()
