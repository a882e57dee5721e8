"""Make a native checkpoint of a Magenta NSynth checkpoint (TensorFlow's V2 format), without TensorFlow.

Examples:
    python -m wavenet_ae.convert input=wavenet-ckpt/model.ckpt-200000 out=nsynth.safetensors
    python -m wavenet_ae.convert input=wavenet-ckpt.tar out=nsynth_ema.safetensors weights=ema
    python -m wavenet_ae.convert input=runs/my_training out=mine.safetensors trained_on=mine licence=CC0-1.0
"""

from pathlib import Path

from omegaconf import DictConfig

from wavenet_ae import checkpoint, magenta
from wavenet_ae.command import command, log, required


@command
def main(cfg: DictConfig) -> None:
    """Read, report, write."""
    required(cfg, "input", "out")
    out = Path(str(cfg.out))
    if out.suffix != ".safetensors":
        raise ValueError(f"out is {out}: expected a name ending in .safetensors")
    if out.exists() and not cfg.overwrite:
        raise ValueError(f"{out} exists: give another name, or overwrite=true")
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
    checkpoint.save(out, found.model, meta)
    log.info("wrote %s: %.1f MB, model %s", out, out.stat().st_size / 1e6, checkpoint.fingerprint(found.model))


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
