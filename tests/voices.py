"""What the engines are given in tests: the same embeddings and dice for all of them."""

import torch


def inputs(decoder, batch=1, frames=12):
    torch.manual_seed(1)
    embedding = torch.randn(batch, decoder.embedding_dims, frames, dtype=decoder.start.weight.dtype)
    return embedding, torch.rand(batch, frames * decoder.hop, dtype=torch.float64)
