"""Make a native checkpoint of one of Magenta's (TensorFlow's V2 format), without TensorFlow, or a smaller one of ours.

Examples:
    python -m wavenet_ae.convert input=wavenet-ckpt/model.ckpt-200000 out=nsynth.safetensors
    python -m wavenet_ae.convert input=wavenet-ckpt.tar out=nsynth_ema.safetensors weights=ema
    python -m wavenet_ae.convert input=runs/my_training out=mine.safetensors trained_on=mine licence=CC0-1.0
    python -m wavenet_ae.convert input=runs/mine/model.safetensors out=mine.safetensors stored=fp16
        a model trained here in half the space, as the model in the box is stored
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn

from wavenet_ae import checkpoint, magenta
from wavenet_ae.command import command, log, required

SAID = ("weights", "stages", "hop", "sample_rate", "trained_on", "licence")  # of a checkpoint that does not say it


@command
def main(cfg: DictConfig) -> None:
    """Read, report, write."""
    required(cfg, "input", "out")
    out = Path(str(cfg.out))
    if out.suffix != ".safetensors":
        raise ValueError(f"out is {out}: expected a name ending in .safetensors")
    if out.exists() and not cfg.overwrite:
        raise ValueError(f"{out} exists: give another name, or overwrite=true")
    if cfg.stored not in (None, "fp16"):
        raise ValueError(f"stored is {cfg.stored!r}: expected fp16, or null for the numbers as they are")
    is_native = str(cfg.input).endswith(".safetensors")
    model, meta = _native(cfg) if is_native else _magenta(cfg)
    checkpoint.save(out, model.half() if cfg.stored else model, meta)
    log.info("wrote %s: %.1f MB, model %s", out, out.stat().st_size / 1e6, checkpoint.fingerprint(model))


def _native(cfg: DictConfig) -> tuple[nn.Module, checkpoint.Meta]:
    """What this package wrote, to be stored anew; it says itself what it is.

    Raises:
        ValueError: something else was said about it.
    """
    asked = [each for each in HydraConfig.get().overrides.task if each.lstrip("+").split("=")[0] in SAID]
    if asked:
        raise ValueError(f"{cfg.input} says itself what it is: leave out {', '.join(asked)}")
    return checkpoint.load(cfg.input), checkpoint.describe(cfg.input)


def _magenta(cfg: DictConfig) -> tuple[nn.Module, checkpoint.Meta]:
    """Read and report; conf/convert.yaml says what the checkpoint does not."""
    found = magenta.read(str(cfg.input), str(cfg.weights), stages=cfg.stages, hop=cfg.hop)
    report(found, str(cfg.weights))
    meta = checkpoint.Meta(
        model=found.description,
        sample_rate=cfg.sample_rate,
        hop=found.model.hop,
        step=found.step or 0,
        weights=cfg.weights,
        corpus=str(cfg.trained_on),
        licence=str(cfg.licence),
    )
    return found.model, meta


def report(found: magenta.Imported, weights: str) -> None:
    """Say what the checkpoint holds, what was used of it and what was left."""
    count = sum(parameter.numel() for parameter in found.model.parameters())
    total = len(found.used) + sum(map(len, found.left.values()))
    log.info("%s: %d variables, %s", found.source, total, f"step {found.step:,}" if found.step else "no global_step")
    halves = {name: node for name, node in found.description.items() if isinstance(node, dict)}
    for name, node in (halves or {"baseline": found.description}).items():
        sizes = ", ".join(f"{key} {value}" for key, value in node.items() if key != "_target_")
        log.info("  %s: %s", name, sizes)
    log.info("  used: %d variables (%s), %s parameters, checksums verified", len(found.used), weights, f"{count:,}")
    for kind, names in found.left.items():
        shown = ", ".join(names[:2] if kind != "unknown" else names)
        log.info("  left: %d %s (%s%s)", len(names), kind, shown, ", ..." if shown.count(",") + 1 < len(names) else "")


if __name__ == "__main__":
    main()
