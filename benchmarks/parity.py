"""Whether a GPU's engines are right: beside the float64 decoder, plain torch and Magenta, and beside themselves."""

import copy
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench import NSYNTH, TINY, Bench, open_voices
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import dice

NARROW = NSYNTH | {"layers": 12, "stages": 6, "width": 64, "skip_width": 128, "hop": 64}
MODELS = (("tiny", TINY), ("narrow", NARROW), ("nsynth", NSYNTH))
GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "magenta_wavenet"
GRADES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16}


class Case(NamedTuple):
    """A decoder and what it hears, and Magenta's own probabilities of some of the samples."""

    model: str
    decoder: Decoder
    code: Tensor
    told: Tensor
    golden: Sequence[tuple[slice, Tensor]] = ()


def check_parity(bench: Bench) -> None:
    """Teacher-forced log-probabilities against the float64 decoder, beside plain torch in the same format."""
    for case in _cases(bench):
        with torch.inference_mode():
            expected = copy.deepcopy(case.decoder).double()(case.code, case.told).log_softmax(1)
        for engine, precision in [*bench.engines, ("cached", "fp32")]:
            with bench.guard(section="parity", model=case.model, engine=engine, precision=precision):
                _compare(bench, case, expected, engine, precision)


def _cases(bench: Bench) -> Iterator[Case]:
    for model, sizes in MODELS[: 1 if bench.tiny else 3]:
        code = torch.randint(256, (2, 2 * sizes["hop"]), device=bench.device)
        told = torch.randn(2, sizes["embedding_dims"], 2, dtype=torch.float64, device=bench.device)
        yield Case(model, bench.decoder(sizes=sizes), code, told)
    try:
        magenta = importlib.import_module("wavenet_ae.magenta")
    except ModuleNotFoundError as error:
        bench.leave_out(f"parity of magenta: it needs the package {error.name}")
        return
    if not GOLDEN.exists():
        bench.leave_out(f"parity of magenta: there is no {GOLDEN}")
        return
    decoder = magenta.load(GOLDEN / "model.ckpt-200000").decoder.to(bench.device)
    with np.load(GOLDEN / "golden.npz") as arrays:
        held = {name: torch.from_numpy(arrays[name]).to(bench.device) for name in arrays}
    frames = held["encoding"].shape[1]
    if bench.tiny:
        frames, decoder.hop = 1, 32  # the beginning of the first
    code = held["quantized"].long()[:, : frames * decoder.hop] + 128
    fast, full = held["fast_probabilities"][:, : code.shape[1]], held["full_probabilities"]
    golden = [(slice(fast.shape[1]), fast), (slice(-full.shape[1], None), full)][: 1 if bench.tiny else 2]
    yield Case("magenta", decoder, code, held["encoding"][:, :frames].transpose(1, 2).double(), golden)


def _compare(bench: Bench, case: Case, expected: Tensor, engine: str, precision: str) -> None:
    code, told = case.code, case.told
    usual = copy.deepcopy(case.decoder).to(GRADES[precision])
    with torch.inference_mode():
        usual_p = usual(code, told.to(GRADES[precision])).double().log_softmax(1)
    voices = open_voices(case.decoder, len(code), engine, precision)
    log_p = voices.score(told.float(), code).double()
    apart, nll, probability = (log_p - expected).abs(), _nll(expected, code), log_p.exp().transpose(1, 2)
    golden = [(probability[:, when] - theirs).abs().max().item() for when, theirs in case.golden]
    bench.found(
        section="parity", model=case.model, engine=engine, precision=precision, max_abs=apart.max().item(),
        mean_abs=apart.mean().item(), to_plain=(apart.mean() / (usual_p - expected).abs().mean()).item(),
        nll_change=(_nll(log_p, code) - nll) / nll, **({"to_magenta": max(golden)} if golden else {}),
    )  # fmt: skip


def check_voices(bench: Bench) -> None:
    """The same dice give the same codes, whatever the number of voices and the chunks."""
    decoder = bench.decoder()
    for engine, precision in bench.engines:
        row = {"section": "voices", "engine": engine, "precision": precision}
        with bench.guard(**row):
            most = 3 if bench.tiny else 8 if engine == "cuda" else 200
            told = torch.randn(most, decoder.embedding_dims, 3, device=bench.device)
            die = torch.stack([dice.throw(0, note, 0, 3 * decoder.hop) for note in range(most)])
            together = open_voices(decoder, most, engine, precision).generate(told, die)
            for voices in (1, most // 2):
                some = open_voices(decoder, voices, engine, precision)
                parts = [some.generate(told[:voices, :, :1], die[:voices, : decoder.hop])]
                parts.append(some.generate(told[:voices, :, 1:], die[:voices, decoder.hop :]))
                alike = (torch.cat(parts, dim=-1) == together[:voices]).double().mean().item()
                bench.found(**row, batch=voices, value=alike, unit="of codes alike", equal=str(alike == 1))


def _nll(log_p: Tensor, code: Tensor) -> float:
    return -log_p.gather(1, code.unsqueeze(1)).mean().item()
