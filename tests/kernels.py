"""The GPU kernels as tests open them: few warps, since each of their threads is a fiber."""

import copy

import torch
from voices import inputs

from wavenet_ae import sampler
from wavenet_ae.sampler import clusters, cuda

ENGINES = {"cuda": cuda, "clusters": clusters}
FEW = {  # warps
    "cuda": {"hearing": 2, "remembering": 1},
    "clusters": {"kparts": 2, "mparts": 1, "size": 2},
}
ODD = {"width": 20, "skip_width": 17}  # neither is a multiple of anything


def single(tiny, **sizes):
    return tiny(torch.float32, **sizes)


def voices_on(engine, machine, decoder, voices, precision="fp32", **changed):
    sizes = FEW[engine] | changed
    return ENGINES[engine].Voices(decoder, voices, machine=machine, precision=precision, changed=sizes)


def scored(engine, decoder, machine, voices=2, frames=3, **settings):
    embedding, _ = inputs(decoder, voices, frames)
    code = torch.randint(256, (voices, frames * decoder.hop))
    return voices_on(engine, machine, decoder, voices, **settings).score(embedding, code), (embedding, code)


def reference_score(decoder, embedding, code):
    return sampler.score(copy.deepcopy(decoder).double(), code, embedding.double(), engine="cached")
