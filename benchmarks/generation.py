"""Samples per second of the engines, beside the machine's bounds and the readable engine, in the same run.

    python -m benchmarks.generation --model nsynth --engine cpu --precision fp32 bf16 int8 --batch 1 8

Weights are random: speed does not depend on them. Several values of an option make several rows. The
bounds are what the machine allows at this moment: the bytes of weights that a sample needs at the read
rate measured at that size, and the multiply-adds at the rate measured; `fraction` is of the lower one.
"""

import argparse
import itertools
from functools import cache

import torch
from omegaconf import OmegaConf

from benchmarks import machine, record
from wavenet_ae import sampler
from wavenet_ae.audio import SAMPLE_RATE
from wavenet_ae.command import CONF
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import cpu

CACHED_HOP = 32  # samples in a run of the readable engine, which takes some milliseconds for each
read_rate = cache(machine.read_rate)  # one measurement for each size and number of threads
COLUMNS = {
    "model": "", "engine": "", "precision": "", "batch": "d", "threads": "d", "per_voice": ",.0f", "total": ",.0f",
    "median": ",.0f", "real_time": ".2f", "MB": ".1f", "by_bytes": ",.0f", "by_arithmetic": ",.0f", "fraction": ".0%",
    "to_cached": ".1f",
}  # fmt: skip
NOTE = """
per_voice, total: samples/s of the fastest frame; median: total of the median frame; real_time: of one voice.
MB: weights read a sample; by_bytes, by_arithmetic: what reading them, or multiplying, allows in total."""


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", nargs="+", default=["small"], choices=sorted(p.stem for p in CONF.glob("model/*.yaml"))
    )
    parser.add_argument("--engine", nargs="+", default=["cpu"], choices=["cpu", "cached"])
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=cpu.PRECISIONS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", nargs="+", type=int, default=[cpu.cores()])
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, for each row")
    parser.add_argument("--no-record", action="store_true", help="print only")
    asked = parser.parse_args()
    rows: list[record.Row] = []
    load = record.load()
    rates = {threads: machine.multiply_rate(threads) for threads in asked.threads}
    cached: dict[str, float] = {}
    for name, batch, threads in itertools.product(asked.model, asked.batch, asked.threads):
        base = speed(random_decoder(name, hop=CACHED_HOP), "cached", "fp32", batch, threads, min(asked.seconds, 4))
        cached[f"{name} {batch} {threads}"] = base["total"]
        for engine, precision in itertools.product(asked.engine, asked.precision):
            if engine != "cpu" and precision != "fp32":
                continue
            row: record.Row = {
                "model": name,
                "engine": engine,
                "precision": precision,
                "batch": batch,
                "threads": threads,
            }
            decoder = random_decoder(name, hop=None if engine == "cpu" else CACHED_HOP)
            measured = speed(decoder, engine, precision, batch, threads, asked.seconds)
            limits = bounds(decoder, engine, precision, batch, threads, rates[threads])
            rows.append({**row, **measured, **limits, "to_cached": measured["total"] / base["total"]})
            rows[-1]["fraction"] = measured["total"] / min(limits["by_bytes"], limits["by_arithmetic"])
            record.show(rows[-1:], COLUMNS)
    print()
    record.show(rows, COLUMNS)
    print(NOTE)
    record.load(ours=max(asked.threads))
    if not asked.no_record:
        state = {"load_average_at_the_start": load, "multiply_adds_per_s": rates, "cached_samples_per_s": cached}
        print(record.write("generation", rows, state, vars(asked)))


@cache
def random_decoder(name: str, hop: int | None = None) -> Decoder:
    """The decoder of a preset in conf/model; a shorter hop makes a shorter run."""
    sizes = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"), resolve=True)["decoder"]  # type: ignore[call-overload,index]
    torch.manual_seed(0)
    sizes = {str(key): value for key, value in sizes.items() if key != "_target_"}  # type: ignore[union-attr]
    return Decoder(**sizes | ({"hop": hop} if hop else {})).eval()


def speed(decoder: Decoder, engine: str, precision: str, batch: int, threads: int, seconds: float) -> dict[str, float]:
    """Samples per second, a frame of every voice being one run."""
    torch.set_num_threads(threads)
    samples = decoder.hop
    embedding = torch.randn(batch, decoder.embedding_dims, 1)
    uniform = torch.rand(batch, samples, dtype=torch.float64)
    voices = sampler.open_voices(decoder, batch, engine=engine, precision=precision, threads=threads)
    took = record.measure(lambda: voices.generate(embedding, uniform), seconds=seconds)
    per_voice = samples / took["fastest_s"]
    total = per_voice * batch
    return {
        "per_voice": per_voice,
        "total": total,
        "median": batch * samples / took["median_s"],
        "real_time": per_voice / SAMPLE_RATE,
        "runs": took["runs"],
    }


def bounds(decoder: Decoder, engine: str, precision: str, batch: int, threads: int, rate: float) -> dict[str, float]:
    """Bytes of weights a sample of all voices reads, and samples per second that reading and multiplying allow."""
    blocks = decoder.blocks
    used = [*(b.dilated for b in blocks), *(b.skip for b in blocks), *(b.residual for b in list(blocks)[:-1])]
    products = sum(conv.weight.numel() for conv in (*used, decoder.out, decoder.logits))
    read, held = 4.0 * products, 4.0 * products
    if engine == "cpu":
        voices = cpu.Voices(decoder, batch, precision=precision, threads=threads)
        w, batched = voices.weights, voices.state.batched
        now = sum(a.nbytes for a in (w.current, w.residual, w.skip, w.out, w.logits))
        each = w.past.nbytes / max(1, len(batched) - 1)
        read, held = now + sum(each / samples for samples in batched[1:]), now + w.past.nbytes
    bandwidth = read_rate(int(held), threads)
    return {
        "MB": read / 1e6,
        "read_GB_per_s": bandwidth / 1e9,
        "by_bytes": batch * bandwidth / read,
        "by_arithmetic": rate / products,
    }


if __name__ == "__main__":
    main()
