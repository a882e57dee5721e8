"""The GPU kernels where there is a GPU: the fibers' numbers, and the published sizes."""

import multiprocessing

import pytest
import torch
from fibers import COMPILER, Fibers
from kernels import ENGINES, voices_on

from wavenet_ae import sampler
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler.cuda.device import Gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=ENGINES)
def engine(request):
    if torch.cuda.get_device_capability() < (9, 0) and request.param == "clusters":
        pytest.skip("needs a GPU with clusters of blocks")
    return request.param


def published(hop=64):
    torch.manual_seed(0)
    sizes = {"layers": 30, "stages": 10, "width": 512, "skip_width": 256, "kernel_size": 3, "embedding_dims": 16}
    decoder = Decoder(**sizes, hop=hop)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.7)  # torch's initial weights make a decoder that says little
    return decoder.eval().cuda()


def inputs(decoder, voices, frames):
    torch.manual_seed(1)
    samples = frames * decoder.hop
    code, die = torch.randint(256, (voices, samples)), torch.rand(voices, samples, dtype=torch.float64)
    return torch.randn(voices, decoder.embedding_dims, frames).cuda(), code.cuda(), die


def exact(decoder, code, embedding):
    return sampler.score(published(decoder.hop).double(), code, embedding.double(), engine="cached")


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_a_gpu_and_fibers_give_the_same_numbers(engine, tiny):
    decoder = tiny(torch.float32, width=20, skip_width=33)
    embedding, code, _ = inputs(decoder, 2, 4)
    machines = Fibers(3), Gpu(torch.device("cuda", 0))
    both = [voices_on(engine, machine, decoder, 2) for machine in machines]
    on_cpu, on_gpu = (voices.score(embedding.cpu(), code.cpu()) for voices in both)
    assert (on_cpu - on_gpu).abs().max() <= 1e-4


def test_fp32_is_close_at_the_published_sizes(engine):
    decoder = published()
    embedding, code, _ = inputs(decoder, 2, 24)  # 1,536 samples: the rings of the longest gap go round
    error = sampler.score(decoder, code, embedding, engine=engine, precision="fp32") - exact(decoder, code, embedding)
    assert error.abs().max() <= 1e-4


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_err_at_most_twice_as_much_as_torch(engine, precision):
    decoder, dtype = published(), {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    embedding, code, _ = inputs(decoder, 1, 8)
    expected = exact(decoder, code, embedding)
    plain = sampler.score(published().to(dtype), code, embedding.to(dtype), engine="cached").float()
    ours = sampler.score(decoder, code, embedding, engine=engine, precision=precision)
    assert (ours - expected).abs().mean() <= 2 * (plain - expected).abs().mean()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_voices_and_chunks_do_not_change_a_code(engine, precision):
    decoder, kernel = published(), ENGINES[engine]
    most = 8 if engine == "cuda" else 100
    embedding, _, die = inputs(decoder, most, 9)
    once = kernel.Voices(decoder, most, precision=precision).generate(embedding, die)
    alone = kernel.Voices(decoder, 1, precision=precision)
    parts = [
        alone.generate(embedding[3:4, :, :4], die[3:4, :256]),
        alone.generate(embedding[3:4, :, 4:], die[3:4, 256:]),
    ]
    assert torch.equal(torch.cat(parts, dim=-1), once[3:4])
    again = kernel.Voices(decoder, most, precision=precision).generate(embedding, die)
    assert torch.equal(again, once)


def generate_a_while(answers, engine):
    decoder = published(512)
    answers.put(
        sampler.generate(decoder, torch.zeros(1, 16, 16, device="cuda"), engine=engine, seed=1).cpu().sum().item()
    )


def test_two_processes_do_not_stop_each_other(engine):
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    both = [spawn.Process(target=generate_a_while, args=(answers, engine)) for _ in range(2)]
    for process in both:
        process.start()
    first, second = (answers.get(timeout=120) for _ in both)
    for process in both:
        process.join()
    assert first == second
