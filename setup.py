"""The package and what it needs. requirements.lock pins the same for tests and the demo."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "wavenet_ae" / "__init__.py").read_text()).group(1)  # type: ignore[union-attr]

setup(
    name="wavenet_ae",
    version=VERSION,
    description="NSynth's WaveNet autoencoder in PyTorch: notes to 16 numbers every 32 ms, and back to sound",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",  # every released hydra-core breaks on 3.14's argparse
    # conf/ stands at the top level for people and inside the package for an installed wheel.
    packages=[*find_packages(include=["wavenet_ae*"]), "wavenet_ae.conf"],
    package_dir={"wavenet_ae.conf": "conf"},
    package_data={"wavenet_ae": ["py.typed", "sampler/kernels/*.cu*"], "wavenet_ae.conf": ["**/*.yaml", "*.yaml"]},
    install_requires=[
        "torch>=2.11,<2.15",  # 2.15 is built for a CUDA that torchaudio 2.11 cannot load
        "torchaudio>=2.11,<2.12",  # resampling; it declares no bound on torch, so the line above does
        "numpy>=1.26,<2.6",
        "scipy>=1.10,<2",  # matrix square roots of the Frechet distance
        "numba>=0.60,<0.69",  # the CPU engine
        "soundfile>=0.12,<1",  # wav, flac, ogg, mp3, aiff; seek and partial reads
        "soxr>=0.3.7",  # resampling from rates that have little in common with 16 kHz
        "librosa>=0.10.2,<1",  # constant-Q transform, pitch tracking, onsets
        "scikit-learn>=1.3,<2",  # linear probes and covariances of the evaluation; librosa needs it anyway
        "matplotlib>=3.8,<4",  # rainbowgrams
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "safetensors>=0.4,<1",  # checkpoints without pickle
        "tensorboard>=2.15",
        "mido>=1.3,<2",  # MIDI files
        "tqdm>=4.66",
        "jaxtyping>=0.2.34",  # tensor shapes in signatures, checked by the tests
    ],
    extras_require={
        "cuda": ["cuda-bindings>=12.9"],  # compiles and launches the persistent kernel; torch with CUDA brings it too
        "ray": ["ray>=2.40,<3"],  # workers=ray
        "dev": [
            "beartype>=0.18",
            "build>=1.2",
            "hypothesis>=6.100",
            "mypy>=1.10",
            "pysfizz>=0.1.3; sys_platform == 'linux' and platform_machine == 'x86_64'",  # plays exported instruments
            "pytest>=8",
            "ray>=2.40,<3; sys_platform == 'linux' and platform_machine == 'x86_64'",  # workers=ray is tested with it
            "ruff>=0.6",
            "sfzlint>=0.1.4",
            "setuptools>=70",
            "wheel>=0.43",
        ],
    },
)
