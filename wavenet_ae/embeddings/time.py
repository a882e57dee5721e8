"""Embeddings in time: made equally long, morphed, faded, stretched, sustained.

Values are [dims, frames], 32 ms a frame for NSynth. A zero embedding is not silence, since decoders have biases: what
needs silence is given the model's own encoding of it, `store.silence`.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wavenet_ae.embeddings.mixing import mix, steps_between, weights_at
from wavenet_ae.embeddings.store import Embedding

ALIGNMENTS = ("pad", "stretch", "trim")
CURVES: dict[str, Callable[[Tensor], Tensor]] = {  # from 0 to 1 while x goes from 0 to 1
    "linear": lambda x: x,
    "cosine": lambda x: (1 - torch.cos(math.pi * x)) / 2,
    "early": lambda x: 1 - (1 - x) ** 2,
    "late": lambda x: x**2,
}


def align(sounds: Sequence[Embedding], how: str, silence: Float[Tensor, "dims 1"] | None = None) -> list[Embedding]:
    """Sounds of one model as sounds of one length, in the order given.

    Args:
        sounds: embeddings of one encoder, of any lengths.
        how: "pad" fills up to the longest with silence, "stretch" stretches all to the longest, "trim" cuts to
            the shortest. The length in samples is the longest's, or the shortest's, too.
        silence: one frame of the model's own encoding of silence (`embeddings.silence`), which "pad" needs.

    Raises:
        ValueError: they come from different models, hops or numbers of dims, `how` is unknown, or silence is missing.
    """
    _check_kin(sounds)
    if how not in ALIGNMENTS:
        raise ValueError(f"unknown alignment {how!r}: choose one of {', '.join(ALIGNMENTS)}")
    pick = min if how == "trim" else max
    frames, samples = pick(each.values.shape[-1] for each in sounds), pick(each.samples for each in sounds)

    def fit(values: Float[Tensor, "dims _"]) -> Float[Tensor, "dims frames"]:
        missing = frames - values.shape[-1]
        if how == "trim" or not missing:
            return values[:, :frames]
        if how == "stretch":
            return stretch(values, frames / values.shape[-1])
        if silence is None:
            raise ValueError("nothing to pad with: give the model's encoding of silence (embeddings.silence(model))")
        return torch.cat([values, silence.to(values).expand(-1, missing)], dim=-1)

    return [each._replace(values=fit(each.values), samples=samples) for each in sounds]


def morph(
    sounds: Sequence[Float[Tensor, "dims frames"]], curve: str = "linear", start: int = 0, stop: int | None = None
) -> Float[Tensor, "dims frames"]:
    """A path through several sounds over time: it begins as the first and ends as the last.

    Args:
        sounds: at least two, of one length.
        curve: one of `CURVES`, how the way between each two is spent.
        start: the frame the way begins at: it and all before are the first sound's alone.
        stop: the frame it has ended by: `stop - 1` and all that follow are the last sound's; None is the end.

    Raises:
        ValueError: fewer than two sounds, sounds that differ in shape, an unknown curve, or less than two frames
            from start to stop.
    """
    frames = sounds[0].shape[-1]
    stop = frames if stop is None else stop
    if not 0 <= start < stop - 1 < frames:
        raise ValueError(f"frames {start} to {stop} of {frames} leave no time to change: expected two frames at least")
    position = torch.zeros(frames, dtype=torch.float64)
    position[start:stop] = steps_between(len(sounds), stop - start)
    position[stop:] = len(sounds) - 1
    leg = position.floor()
    return mix(sounds, weights_at(leg + _curve(curve)(position - leg), len(sounds)))


def crossfade(
    a: Float[Tensor, "dims frames"],
    b: Float[Tensor, "dims frames"],
    curve: str = "linear",
    start: int = 0,
    stop: int | None = None,
) -> Float[Tensor, "dims frames"]:
    """One sound becoming another over time; `morph` for two."""
    return morph([a, b], curve, start, stop)


def fade(
    values: Float[Tensor, "dims frames"], silence: Float[Tensor, "dims 1"], frames: int, curve: str = "linear"
) -> Float[Tensor, "dims frames"]:
    """The sound with its last `frames` frames going over into silence: the very last is silence.

    Raises:
        ValueError: fewer than 1 frame, or more than there are.
    """
    if not 1 <= frames <= values.shape[-1]:
        raise ValueError(f"a fade of {frames} frames does not fit {values.shape[-1]}: expected 1 to that many")
    weight = torch.zeros(values.shape[-1], dtype=torch.float64)
    weight[-frames:] = _curve(curve)(torch.arange(1, frames + 1, dtype=torch.float64) / frames)
    return mix([values, silence.to(values).expand_as(values)], torch.stack([1 - weight, weight]))


def stretch(values: Float[Tensor, "dims frames"], factor: int | float) -> Float[Tensor, "dims stretched"]:
    """The sound `factor` times as long, to the nearest frame and one at least: a smooth curve through its frames.

    Cubic (Catmull and Rom 1974), with a wider filter where it shortens, so that nothing fast is folded into
    something slow. A factor of 1 changes no bit.

    Raises:
        ValueError: the factor is not positive and finite.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"a sound cannot be stretched by {factor}: expected a positive number")
    frames = max(1, round(values.shape[-1] * factor))
    return F.interpolate(values[:, None, None], size=(1, frames), mode="bicubic", antialias=True)[:, 0, 0]


def sustain(
    values: Float[Tensor, "dims frames"], frames: int, start: int, stop: int, how: str = "hold"
) -> Float[Tensor, "dims sustained"]:
    """The sound held to any length: frames before `start`, the region up to `stop` as long as needed, the rest.

    "hold" goes through the region once, as slowly or fast as it takes (a region of one frame stands still);
    "loop" goes through it back and forth, near its own pace. Both begin and end where the sound around them
    joins. A length shorter than what lies around the region is the beginning of that.

    Raises:
        ValueError: fewer than 1 frame, a region that is empty or outside the sound, or another `how`.
    """
    if frames < 1 or not 0 <= start < stop <= values.shape[-1]:
        raise ValueError(
            f"{frames} frames with {start} to {stop} of {values.shape[-1]} held: expected at least one frame, and a "
            "region of at least one within the sound"
        )
    if how not in ("hold", "loop"):
        raise ValueError(f"unknown way to sustain {how!r}: choose hold or loop")
    before, region, after = values[:, :start], values[:, start:stop], values[:, stop:]
    wanted = frames - before.shape[-1] - after.shape[-1]
    if wanted <= 0:
        return torch.cat([before, after], dim=-1)[:, :frames]
    passes = 1 if how == "hold" else 1 + 2 * max(0, round((wanted / (stop - start) - 1) / 2))
    there_and_back = torch.cat([region if n % 2 == 0 else region.flip(-1) for n in range(passes)], dim=-1)
    return torch.cat([before, stretch(there_and_back, wanted / there_and_back.shape[-1]), after], dim=-1)


def _curve(name: str) -> Callable[[Tensor], Tensor]:
    if name not in CURVES:
        raise ValueError(f"unknown curve {name!r}: choose one of {', '.join(CURVES)}")
    return CURVES[name]


def _check_kin(sounds: Sequence[Embedding]) -> None:
    """Numbers of different encoders mean different things; an unknown encoder (Magenta's files) is taken on trust."""
    if not sounds:
        raise ValueError("there is no sound: expected at least one embedding")
    first = next((each for each in sounds if each.model), sounds[0])
    for each in sounds:
        if each.model not in ("", first.model):
            raise ValueError(
                f"{each.source} was encoded by model {each.model}, {first.source} by {first.model}: numbers of "
                "different models do not mix; encode both by one"
            )
        if (each.hop, len(each.values)) != (first.hop, len(first.values)):
            raise ValueError(
                f"{each.source} has {len(each.values)} numbers every {each.hop} samples, {first.source} "
                f"{len(first.values)} every {first.hop}: expected the same of all; encode both by one model"
            )
