"""Training steps per second beside the plain eager step and the machine's matrix products, in the same run.

    python -m benchmarks.training --model small --batch 2 --crop 2048
    python -m benchmarks.training --model nsynth --batch 32 --crop 6144 --device cuda --precision bf16 --compile

A step is all of it: gradient, clipping, Adam, moving average; crops are random, and how fast real ones come is measured
apart, on the notes in the box. `plain` is the autoencoder in torch's convolutions, a layer at a time; `fused` what the
model says; `stretches`, on a CPU in fp32, its blocks compiled by numba; `graph`, on a GPU, the fused step recorded once
and replayed. `fraction` is the multiply-adds of a step, three times those of its products forwards, of what a large
matrix product makes in it.
"""

import argparse
import itertools
import time

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks import record
from wavenet_ae import models, mulaw, notes
from wavenet_ae.command import CONF
from wavenet_ae.models.wavenet import Conv1d, WaveNetAutoencoder
from wavenet_ae.sampler.cpu import cores
from wavenet_ae.training.objectives import Likelihood
from wavenet_ae.training.processes import Group
from wavenet_ae.training.recording import WARM, CudaRecorder
from wavenet_ae.training.schedule import Steps

FORMATS = {"fp32": None, "bf16": torch.bfloat16}
COLUMNS = {
    "model": "", "step": "", "precision": "", "steps_per_s": ".2f", "samples_per_s": ",.0f", "fraction": ".0%",
    "memory_MB": ",.0f", "to_plain": ".2f", "first_s": ".1f",
}  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["small"], choices=["nsynth", "small", "tiny"])
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=FORMATS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=2048)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--compile", action="store_true", help="a row with torch.compile too; it takes a minute or two")
    parser.add_argument("--recompute", action="store_true", help="a row with activation checkpointing too")
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring, for each row")
    parser.add_argument("--workers", type=int, nargs="+", default=[0], help="of the loader measured apart")
    parser.add_argument("--no-record", action="store_true", help="print only")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    load = record.load()
    rows: list[record.Row] = []
    rates: dict[str, float] = {}
    plains: dict[str, float] = {}  # samples/s of the plain step in the first precision
    for name, precision in itertools.product(asked.model, asked.precision):
        rates[precision] = rate = multiply_rate(asked.device, precision)
        ours = ["graph"] if asked.device == "cuda" else ["stretches"] if precision == "fp32" else []
        variants = ["plain", "fused", *ours, *(each for each in ("recompute", "compile") if getattr(asked, each))]
        for variant in variants:
            row = step_rates(name, variant, precision, asked.device, asked.batch, asked.crop, asked.seconds)
            row["fraction"] = row["samples_per_s"] * 3 * products(name) / rate
            rows.append({"model": name, "step": variant, "precision": precision, **row})
            plains[name] = plains.get(name, row["samples_per_s"])
            rows[-1]["to_plain"] = row["samples_per_s"] / plains[name]
            record.show(rows[-1:], COLUMNS)
    loader = {str(workers): loader_rate(asked.batch, asked.crop, workers, asked.seconds) for workers in asked.workers}
    print()
    record.show(rows, COLUMNS)
    print("to_plain: against the plain step in the first precision; first_s: the first step, compilation included")
    print("memory_MB: on a GPU the peak, on a CPU what a step keeps for its gradient")
    print("matrix products, multiply-adds/s: " + ", ".join(f"{key} {value:.3g}" for key, value in rates.items()))
    print("loader alone, samples/s by workers: " + ", ".join(f"{key}: {value:,.0f}" for key, value in loader.items()))
    record.load(ours=asked.threads)
    if not asked.no_record:
        state = {"load_average_at_the_start": load, "multiply_adds_per_s": rates, "loader_samples_per_s": loader}
        print(record.write("training", rows, state, vars(asked)))


def step_rates(
    name: str, variant: str, precision: str, device: str, batch: int, crop: int, seconds: float
) -> dict[str, float]:
    """Steps and samples per second of one way to compute a step, and the memory it takes."""
    torch.manual_seed(0)
    model = build(name).to(device)
    optimizer, rate = torch.optim.Adam(model.parameters(), lr=1e-4), Steps(table={0: 1e-4}, warmup=0)
    objective = Likelihood(
        model, optimizer, rate, ema_decay=0.9999, max_grad_norm=1.0, autocast=FORMATS[precision], skip=0
    )
    alone = Group(0, 1, torch.device(device))
    recorder = CudaRecorder(alone.device) if variant == "graph" else None
    asked = variant == "compile", variant == "recompute", variant == "stretches"
    ways = dict(zip(("compiled", "recompute", "by_stretches"), asked, strict=True))
    start = time.perf_counter()
    objective.arrange(alone, recorder=recorder, **ways)
    if variant == "plain":
        objective.network = lambda code, *_, **__: plain(model, code)
    crops = notes.Batch(torch.rand(batch, crop) - 0.5, torch.full((batch,), 60), ["noise"] * batch)
    memory = 0
    if device == "cpu":
        memory = kept_bytes(objective, crops)
    else:
        objective.learn(crops, 0)
    first = time.perf_counter() - start
    warmups = WARM + 1 if recorder else 1
    took = record.measure(lambda: objective.learn(crops, 0), seconds=seconds, warmups=warmups)  # floats: it waits
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    per_s = 1 / took["median_s"]
    return {
        "steps_per_s": per_s,
        "samples_per_s": per_s * batch * crop,
        "memory_MB": memory / 1e6,
        "first_s": first,
        **took,
    }


def kept_bytes(objective: Likelihood, crops: notes.Batch) -> int:
    """What one step keeps from its way forwards for its way back, weights aside."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective.learn(crops, 0)
    return sum(kept.values())


def plain(model: WaveNetAutoencoder, code: Tensor) -> Tensor:
    """The autoencoder as it reads in the paper: torch's convolutions, a layer at a time, and nothing fused."""

    def conv(layer: Conv1d, x: Tensor) -> Tensor:
        x = F.pad(x, (max(layer.delays()), -min(layer.delays())))
        return F.conv1d(x, layer.weight, layer.bias, dilation=layer.dilation)

    def level(code: Tensor) -> Tensor:
        return mulaw.level(code, model.encoder.start.weight.dtype).unsqueeze(1)

    def add_held(x: Tensor, condition: Tensor) -> Tensor:
        return (x.unflatten(-1, (condition.shape[-1], -1)) + condition.unsqueeze(-1)).flatten(-2)

    encoder, decoder = model.encoder, model.decoder
    x = conv(encoder.start, level(code))
    for layer in encoder.blocks:
        x = x + conv(layer.residual, conv(layer.dilated, x.relu()).relu())
    embedding = F.avg_pool1d(conv(encoder.bottleneck, x), model.hop)
    x = conv(decoder.start, level(F.pad(code, (1, 0), value=mulaw.SILENCE)[:, :-1]))
    said = conv(decoder.start_skip, x)
    for block in decoder.blocks:
        sigmoid, tanh = add_held(conv(block.dilated, x), conv(block.condition, embedding)).chunk(2, dim=1)
        gated = sigmoid.sigmoid() * tanh.tanh()
        x, said = x + conv(block.residual, gated), said + conv(block.skip, gated)
    said = add_held(conv(decoder.out, said.relu()), conv(decoder.out_condition, embedding))
    return conv(decoder.logits, said.relu())


def build(name: str) -> WaveNetAutoencoder:
    """A preset of conf/model."""
    model = models.build(OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"), resolve=True))  # type: ignore[arg-type]
    assert isinstance(model, WaveNetAutoencoder)
    return model


def products(name: str) -> int:
    """Multiply-adds a sample on the way forwards; conditions, computed once a frame, aside."""
    with torch.device("meta"):
        weights = dict(build(name).named_parameters())
    return sum(w.numel() for key, w in weights.items() if key.endswith("weight") and "condition" not in key)


def multiply_rate(device: str, precision: str) -> float:
    """Multiply-adds per second of a large square matrix product."""
    size = 8192 if device == "cuda" else 1536
    square = torch.ones(size, size, device=device, dtype=FORMATS[precision])

    def multiply() -> None:
        for _ in range(10):
            square @ square
        if device == "cuda":
            torch.cuda.synchronize()

    return 10 * size**3 / record.measure(multiply, seconds=1)["fastest_s"]


def loader_rate(batch: int, crop: int, workers: int, seconds: float) -> float:
    """Samples per second of crops of the notes in the box, with nobody to learn from them."""
    train = notes.load(CONF.parent / "data" / "notes", "train")
    loader = notes.batches(train, batch=batch, crop=crop, seed=0, workers=workers, crop_by="energy")
    next(loader)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        next(loader)
        count += 1
    return count * batch * crop / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
