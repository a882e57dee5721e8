"""Make a corpus of notes out of SoundFonts, folders of audio or NSynth's TFRecords, or check one.

    python -m wavenet_ae.prepare source.input=/usr/share/sounds/sf2/FluidR3_GM.sf2 out=data/fluid
    python -m wavenet_ae.prepare source=folder source.input=recordings source.pattern=INSTRUMENT-PITCH out=data/mine
    python -m wavenet_ae.prepare check=true out=data/notes

A corpus is a folder of splits, each `examples.json` and `audio/`, 16 kHz mono, as NSynth's. A run that was
stopped goes on where it was; a corpus of other settings is replaced only with overwrite=true. workers=4 shares the
work between four processes, workers=ray on a Ray cluster; the corpus is the same. The settings of a source:
python -m wavenet_ae.prepare source=folder --cfg job
"""

import logging

from omegaconf import DictConfig, OmegaConf

from wavenet_ae import files, notes, workers
from wavenet_ae.command import Failed, command, made, required
from wavenet_ae.prepare.build import build, listed
from wavenet_ae.prepare.check import check
from wavenet_ae.prepare.sources import quantity

_FORMATS = ("flac", "wav")

log = logging.getLogger("wavenet_ae")


@command
def main(cfg: DictConfig) -> None:
    """Check a corpus, or make one."""
    required(cfg, "out")
    cfg.out = str(cfg.out)  # a name made of digits comes as a number
    if cfg.check:
        _check(cfg)
        return
    if cfg.format not in _FORMATS:
        raise ValueError(f"unknown format {cfg.format!r}: choose one of {', '.join(_FORMATS)}")
    workers.check(cfg.workers)
    source = made(cfg.source)
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    settings["source"].pop("out", None)
    kept = {str(key): settings[key] for key in ("source", "splits", "seed", "format", "licence")}
    failed = build(source, cfg.out, settings=kept, overwrite=cfg.overwrite, workers=cfg.workers)
    for split in notes.splits(cfg.out):
        table = notes.read_examples(notes.find_split(cfg.out, split))
        instruments = {entry["instrument_str"] for entry in table.values()}
        log.info("%s: %d notes of %d instruments", split, len(table), len(instruments))
    if failed:
        raise Failed(listed(f"{len(failed)} inputs could not be used; the others are in {cfg.out}:", failed))


def _check(cfg: DictConfig) -> None:
    cents = None if cfg.check_cents is None else quantity(cfg.check_cents, "check_cents")
    faults = check(cfg.out, cents=cents)
    if cfg.check_list:
        with files.whole(str(cfg.check_list)) as partial:
            names = dict.fromkeys(note for _, note in faults if note and "/" not in note)
            partial.write_text("".join(f"{name}\n" for name in names))
    if faults:
        reasons = {f"{split}/{note}" if note else split: why for (split, note), why in faults.items()}
        raise Failed(listed(f"{len(faults)} faults in {cfg.out}:", reasons))
    log.info("%s: no fault found", cfg.out)


if __name__ == "__main__":
    main()
