"""Is a model that is told the pitch free to leave it out? python examples/entanglement.py folder [key=value ...].

Section 4.3 of Engel et al. 2017: trains WaveNets and baselines of several latent sizes, each told the pitch and not,
and reads pitch and family off all of them. Settings, such as minutes=30 or notes.root=data/nsynth, go to each training,
5 minutes if nothing is said. What is trained stays: the same line goes on after a stop, or with other sizes.
"""

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

SIZES = {  # experiments, which setting is the latent's size, and the sizes to try
    "small": ("model.encoder.embedding_dims", [8, 16, 32]),
    "baseline_small": ("model.latent", [64, 1984]),
}


def main(folder: str, *settings: str) -> None:
    """Train what is not there yet, then probe all of it."""
    runs = Path(folder)
    unfinished = runs.with_name(f"{runs.name}-unfinished")  # beside what is probed
    for experiment, (setting, sizes) in SIZES.items():
        for size, told in itertools.product(sizes, ("true", "false")):
            name = f"{experiment}-{size}-{'told' if told == 'true' else 'untold'}"
            if not (runs / name).exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                model = [f"experiment={experiment}", f"{setting}={size}", f"model.pitch_conditioning={told}"]
                command("train", *model, "minutes=5", *settings, f"run={unfinished}")
                runs.mkdir(parents=True, exist_ok=True)
                unfinished.rename(runs / name)
    corpus = [each for each in settings if each.startswith("notes")]
    command("probe", f"checkpoint={runs}", *corpus, f"out={runs / 'probe'}")


def command(name: str, *arguments: str) -> None:
    """Run a command of the package as from a shell; later settings of one key win."""
    last = {argument.partition("=")[0]: argument for argument in arguments}
    subprocess.run([sys.executable, "-m", f"wavenet_ae.{name}", *last.values()], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
