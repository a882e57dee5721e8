"""What is minimised, and how one update is made."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet_ae import mulaw
from wavenet_ae.models.wavenet import WaveNetAutoencoder
from wavenet_ae.notes import Batch
from wavenet_ae.training.schedule import MovingAverage

# Nats. Knowing nothing costs ln 256 = 5.55; the attack of a note after crops of its silent tail may cost 40 for a step
# or two of a healthy training. What diverges passes thousands within steps.
EXPLODED = 100 * math.log(mulaw.CODES)


class Diverged(RuntimeError):
    """The loss or its gradient is no longer a number, or has exploded."""


class Likelihood:
    """Make the next code likely (section 2.1 of Engel et al. 2017). Measured in nats per sample.

    `skip` leaves the first samples of each crop out of the loss: they see zero padding, not sound.
    """

    def __init__(
        self,
        model: WaveNetAutoencoder,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        *,
        ema_decay: float,
        max_grad_norm: float,
        skip: int,
        autocast: torch.dtype | None,
    ):
        self.model, self.optimizer, self.rate = model, optimizer, rate
        self.average = MovingAverage(model, decay=ema_decay)
        self.max_grad_norm, self.skip, self.autocast = max_grad_norm, skip, autocast
        self.device = next(model.parameters()).device

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """One update; returns what was measured on the way.

        Raises:
            Diverged: the update was not made, so the weights are still those of the step before.
        """
        nats = self._nats(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        nats.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        measured = {"nats": float(nats.detach()), "grad_norm": float(norm), "rate": self.rate(step)}
        self._stop_if_diverged(batch, step, measured["nats"], measured["grad_norm"])
        for group in self.optimizer.param_groups:
            group["lr"] = measured["rate"]
        self.optimizer.step()
        self.average.update(self.model, step)
        return measured

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """What a batch costs the averaged weights, without learning from it."""
        return {"nats": float(self._nats(self.average.model, batch))}

    @torch.no_grad()
    def check(self, batch: Batch, step: int) -> None:
        """Measure the weights as they are after `step` updates, before they are kept as good ones.

        Raises:
            Diverged: the last update spoilt them.
        """
        self._stop_if_diverged(batch, step, float(self._nats(self.model, batch)), 0.0)

    def state(self) -> dict[str, Tensor]:
        """All that the next update depends on, as flat names and tensors."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= {f"ema.{name}": tensor for name, tensor in self.average.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Undo `state`.

        Raises:
            ValueError: the state is of another model.
        """
        try:
            self.model.load_state_dict(_under("model.", state))
            self.average.model.load_state_dict(_under("ema.", state))
        except RuntimeError as error:
            raise ValueError(f"the run's state is of another model: {error}") from None
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", state).items():
            index, _, key = name.partition(".")
            values.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": values})

    def _stop_if_diverged(self, batch: Batch, step: int, nats: float, grad_norm: float) -> None:
        if nats <= EXPLODED and math.isfinite(grad_norm):
            return
        raise Diverged(
            f"training diverged after {step} steps: loss {nats:.4g} nats (knowing nothing costs "
            f"{math.log(mulaw.CODES):.2f}), gradient norm {grad_norm:.4g}; lower the learning rate "
            f"({self.rate(step):.2g}) or max_grad_norm ({self.max_grad_norm:g}), "
            f"or look at the notes {', '.join(batch.names[:4])}"
        )

    def _nats(self, model: nn.Module, batch: Batch) -> Tensor:
        code = mulaw.encode(batch.wave.to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            logits = model(code, batch.pitch.to(self.device))
        return F.cross_entropy(logits[:, :, self.skip :].float(), code[:, self.skip :])


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
