"""Other people's WaveNets of the same sizes in the same run, where their code is given by path.

    python -m benchmarks.others --model nsynth --batch 1 8 --r9y9 PATH --vincentherrmann PATH --magenta PATH

PATH is a checkout of theirs: github.com/r9y9/wavenet_vocoder, github.com/vincentherrmann/pytorch-wavenet
(one voice only; its filters are two matrices), github.com/magenta/magenta (its published sizes only; needs
tensorflow and librosa). Each generates with its own cached loop. Sizes are matched as far as theirs allow:
none of the first two has our wide start convolution, and their inputs are one-hot.
"""

import argparse
import contextlib
import io
import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import generation, record
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler import cpu

SAMPLES = 16  # of a run
COLUMNS = {
    "model": "",
    "engine": "",
    "precision": "",
    "batch": "d",
    "threads": "d",
    "total": ",.1f",
    "median": ",.1f",
    "to_r9y9": ".1f",
    "to_vincentherrmann": ".1f",
    "to_magenta": ".1f",
}
OTHERS = ("r9y9", "vincentherrmann", "magenta")


def main() -> None:
    """Measure theirs and ours, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nsynth", choices=["nsynth", "small"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", type=int, default=cpu.cores())
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring, for each row")
    parser.add_argument("--no-record", action="store_true", help="print only")
    for name in OTHERS:
        parser.add_argument(f"--{name}", type=Path, metavar="PATH")
    asked = parser.parse_args()
    decoder = generation.random_decoder(asked.model)
    rows: list[record.Row] = []
    theirs: dict[tuple[int, str], float] = {}
    for batch, name in itertools.product(asked.batch, OTHERS):
        path = getattr(asked, name)
        if path is None or (name == "vincentherrmann" and batch > 1) or (name == "magenta" and asked.model != "nsynth"):
            continue
        torch.set_num_threads(asked.threads)
        run = globals()[f"{name}_runs"](path, decoder, batch, asked.threads)
        took = record.measure(run, seconds=asked.seconds)
        row = {"model": asked.model, "engine": name, "precision": "fp32", "batch": batch, "threads": asked.threads}
        rates = {"total": batch * SAMPLES / took["fastest_s"], "median": batch * SAMPLES / took["median_s"]}
        rows.append({**row, **took, **rates})
        theirs[batch, name] = rates["total"]
    for batch, precision in itertools.product(asked.batch, ("fp32", "bf16", "int8")):
        ours = generation.speed(decoder, "cpu", precision, batch, asked.threads, asked.seconds)
        row = {"model": asked.model, "engine": "cpu", "precision": precision, "batch": batch, "threads": asked.threads}
        ratios = {f"to_{name}": ours["total"] / rate for (b, name), rate in theirs.items() if b == batch}
        rows.append({**row, **ours, **ratios})
    record.show(rows, COLUMNS)
    if not asked.no_record:
        print(record.write("others", rows, {}, {key: str(value) for key, value in vars(asked).items()}))


def r9y9_runs(path: Path, decoder: Decoder, batch: int, threads: int) -> Callable[[], object]:
    """wavenet_vocoder's incremental_forward, its weight norm folded as its own synthesis does."""
    sys.path.insert(0, str(path))
    from wavenet_vocoder import WaveNet

    sizes = _sizes(decoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm and hooks of an older torch
        model = WaveNet(
            out_channels=CODES,
            layers=sizes.layers,
            stacks=sizes.layers // sizes.stages,
            residual_channels=sizes.width,
            gate_channels=2 * sizes.width,
            skip_out_channels=sizes.skip,
            kernel_size=sizes.taps,
            dropout=0.0,
            cin_channels=decoder.embedding_dims,
        ).eval()
        model.make_generation_fast_()
    told = torch.randn(batch, decoder.embedding_dims, SAMPLES)

    def run() -> None:
        with torch.inference_mode():
            model.incremental_forward(c=told, T=SAMPLES)

    return run


def vincentherrmann_runs(path: Path, decoder: Decoder, batch: int, threads: int) -> Callable[[], object]:
    """pytorch-wavenet's generate_fast; it is not conditioned, and starts its queues anew for each run."""
    sys.path.insert(0, str(path))
    from wavenet_model import WaveNetModel
    from wavenet_modules import DilatedQueue

    enqueue = DilatedQueue.enqueue  # written for a torch that took a column where a row stands
    DilatedQueue.enqueue = lambda queue, x: enqueue(queue, x.squeeze(-1))
    sizes = _sizes(decoder)
    model = WaveNetModel(
        layers=sizes.stages,
        blocks=sizes.layers // sizes.stages,
        dilation_channels=sizes.width,
        residual_channels=sizes.width,
        skip_channels=sizes.skip,
        end_channels=sizes.skip,
        classes=CODES,
        kernel_size=sizes.taps,
        bias=True,
    )

    def run() -> None:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            model.generate_fast(SAMPLES)

    return run


def magenta_runs(path: Path, decoder: Decoder, batch: int, threads: int) -> Callable[[], object]:
    """NSynth's own graph with queues, fed and sampled one by one from Python as its fastgen does."""
    sys.path.insert(0, str(path))
    import tensorflow.compat.v1 as tf
    from magenta.models.nsynth.wavenet.h512_bo16 import FastGenerationConfig

    tf.disable_eager_execution()
    graph = tf.Graph()
    with graph.as_default():
        heard = tf.placeholder(tf.float32, shape=[batch, 1])
        net = FastGenerationConfig(batch_size=batch).build({"wav": heard})
        config = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
        session = tf.Session(config=config)
        session.run(tf.global_variables_initializer())
        session.run(net["init_ops"])
    told, dice = np.random.default_rng(0).standard_normal((batch, decoder.embedding_dims)), np.random.default_rng(1)

    def run() -> None:
        wave = np.zeros((batch, 1))
        for _ in range(SAMPLES):
            odds, _ = session.run([net["predictions"], net["push_ops"]], {heard: wave, net["encoding"]: told})
            code = [row.cumsum().searchsorted(die) for row, die in zip(odds, dice.random(batch), strict=True)]
            wave = (np.array(code)[:, None] - 128) / 128

    return run


def _sizes(decoder: Decoder) -> SimpleNamespace:
    stages = max(block.dilated.dilation[0] for block in decoder.blocks).bit_length()
    return SimpleNamespace(
        layers=len(decoder.blocks),
        stages=stages,
        width=decoder.start.out_channels,
        skip=decoder.out.out_channels,
        taps=decoder.start.kernel_size[0],
    )


if __name__ == "__main__":
    main()
