"""Who listens: the classifier, and published networks by the files of their weights, for Frechet distances."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wavenet_ae import checkpoint, notes
from wavenet_ae.models.classifier import Classifier
from wavenet_ae.models.cnn14 import Cnn14
from wavenet_ae.models.vggish import VGGish

WINDOW = 16_384  # samples whose features are one point of a Frechet distance: 1.02 s; VGGish has windows of its own


class Kind(NamedTuple):
    """A published network, its file as it is published, and a name of a tensor that tells it from others."""

    network: type[nn.Module]
    file: str
    sign: str


_KINDS = {
    "frechet_vggish": Kind(VGGish, "vggish-10086976.pth", "embeddings.0.weight"),
    "frechet_cnn14": Kind(Cnn14, "Cnn14_16k_mAP=0.438.pth", "fc_audioset.weight"),
}
_ARRAYS = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
_HARMLESS = [  # PANN's files keep arrays of numbers of their training beside the weights
    *(np.ndarray, np.dtype, _ARRAYS._reconstruct, _ARRAYS.scalar),
    *((getattr(_ARRAYS, name), f"numpy.core.multiarray.{name}") for name in ("_reconstruct", "scalar")),
    *((getattr(_ARRAYS, name), f"numpy._core.multiarray.{name}") for name in ("_reconstruct", "scalar")),
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
]


class Ears:
    """All who listen, one sound at a time; their features are kept by the measure of `scores` they are for."""

    def __init__(self, classifier: Classifier | None, published: Sequence[str] = ()):
        """Raise FileNotFoundError or ValueError for files of `published` that hold no network known here."""
        self.classifier = classifier
        self.networks: dict[str, nn.Module] = {} if classifier is None else {"frechet": classifier}
        for path in published:
            key, network = read(path)
            if key in self.networks:
                raise ValueError(f"{path} is a second {type(network).__name__}: expected one of each kind")
            self.networks[key] = network

    @property
    def about(self) -> dict[str, dict[str, str]]:
        """Which networks they are: two of one fingerprint are the same."""
        return {
            key: {"network": type(network).__name__, "fingerprint": checkpoint.fingerprint(network)}
            for key, network in self.networks.items()
        }

    @torch.inference_mode()
    def answers(self, wave: Float[Tensor, " samples"]) -> dict[str, int | str]:
        """The pitch, family and source that a sound seems to have, if there is a classifier."""
        if self.classifier is None:
            return {}
        said = [int(logits.argmax()) for logits in self.classifier(wave[None])]
        return {"heard_pitch": said[0], "heard_family": notes.FAMILIES[said[1]], "heard_source": notes.SOURCES[said[2]]}

    @torch.inference_mode()
    def features(self, wave: Float[Tensor, " samples"]) -> dict[str, Float[np.ndarray, "_ _"]]:
        """Points, [windows, numbers], each of about a second; a last piece of less than half of one is left out."""
        pieces = [piece for piece in wave.split(WINDOW) if piece.numel() >= WINDOW // 2] or [wave]
        found = {}
        for key, network in self.networks.items():
            if isinstance(network, Classifier):
                points = torch.cat([network.features(piece[None]) for piece in pieces])
            else:
                points = torch.cat([network(piece) for piece in ([wave] if isinstance(network, VGGish) else pieces)])
            found[key] = points.numpy()
        return found


def read(path: str | Path) -> tuple[str, nn.Module]:
    """The network whose published weights a file holds, and the measure of `scores` it is for.

    No code in the file is run: tensors and arrays of numbers are read, all else is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds none of the networks known here; the message says what was found and what is expected.
    """
    tensors = _tensors(Path(path))
    key = next((key for key, kind in _KINDS.items() if kind.sign in tensors), None)
    if key is None:
        names = ", ".join(list(tensors)[:3])
        raise ValueError(f"{path} holds {len(tensors)} tensors{f' ({names} ...)' if names else ''}: {_expected()}")
    with torch.device("meta"):
        network = _KINDS[key].network()
    checkpoint.check_fit(f"{path} is not the {_KINDS[key].network.__name__} of {_KINDS[key].file}", network, tensors)
    network.load_state_dict(tensors, assign=True)
    return key, network.eval().requires_grad_(False)


def _tensors(path: Path) -> dict[str, Tensor]:
    """A state dict, bare or beside other things as `model`, its numbers in float32."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: {_expected()}")
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling noise raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} cannot be read as weights ({reason[-1][:200]}): {_expected()}") from None
    state = found.get("model", found) if isinstance(found, Mapping) else found
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}: {_expected()}")
    tensors = {str(name): each for name, each in state.items() if isinstance(each, Tensor)}
    return {name: each.float() if each.is_floating_point() else each for name, each in tensors.items()}


def _expected() -> str:
    return f"expected {' or '.join(kind.file for kind in _KINDS.values())} as published, or a file like it"
