"""The kernel's source, compiled for a GPU by NVRTC: no CUDA toolkit and no GPU are needed, and every result is kept."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wavenet_ae import files

log = logging.getLogger(__name__)

KERNELS = Path(__file__).parents[1] / "kernels"
OPTIONS = (
    "--std=c++17",
    "--fmad=false",  # a product and a sum become one instruction where the source says so, in every variant alike
    "--ptxas-options=-v",  # what it needs of the GPU goes to the log
)


class Compiled(NamedTuple):
    """A kernel for one GPU architecture and one set of sizes."""

    cubin: bytes
    report: str  # the assembler's: registers, stack, spills


def sources(kernel: str) -> dict[str, str]:
    """The files a kernel is made of, by name, its own first."""
    return {path.name: path.read_text() for path in [KERNELS / kernel, *sorted(KERNELS.glob("*.cuh"))]}


def unavailable() -> str | None:
    """Why nothing can be compiled here, or None."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        return f"it compiles its kernel by NVRTC, and that is not here ({error}): pip install 'wavenet_ae[cuda]'"
    return None


def compiled(
    kernel: str, constants: Mapping[str, int], architecture: str, texts: Mapping[str, str] | None = None
) -> Compiled:
    """One of the kernels, by its file, for an architecture such as sm_90a, from the cache if it was compiled before.

    Raises:
        RuntimeError: NVRTC refused it; the message holds its log.
    """
    texts = texts or sources(kernel)
    options = [f"--gpu-architecture={architecture}", *OPTIONS, *(f"-D{name}={n}" for name, n in constants.items())]
    kept = cache() / f"{_key(texts, options)}.cubin"
    try:
        report, _, cubin = kept.read_bytes().partition(b"\0")
        if cubin:
            return Compiled(cubin, report.decode())
    except OSError:
        pass
    made = _compile(texts, options)
    try:
        with files.whole(kept) as path:
            path.write_bytes(made.report.encode() + b"\0" + made.cubin)
    except OSError as error:
        log.warning("the GPU kernel is compiled in every process (%s): set XDG_CACHE_HOME to a folder", error)
    return made


def cache() -> Path:
    """Where compiled kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wavenet_ae" / "kernels"


def _key(texts: Mapping[str, str], options: list[str]) -> str:
    from cuda.bindings import nvrtc

    everything = repr((list(texts.items()), options, _checked(nvrtc.nvrtcVersion())))
    return hashlib.sha256(everything.encode()).hexdigest()[:32]


def _compile(texts: Mapping[str, str], options: list[str]) -> Compiled:
    from cuda.bindings import nvrtc

    (kernel, main), *others = texts.items()
    names, headers = [name.encode() for name, _ in others], [text.encode() for _, text in others]
    encoded = [option.encode() for option in options]
    program = _checked(nvrtc.nvrtcCreateProgram(main.encode(), kernel.encode(), len(names), headers, names))
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        said = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        _checked(nvrtc.nvrtcGetProgramLog(program, said))
        report = said.rstrip(b"\0 ").decode()
        if error:
            raise RuntimeError(f"NVRTC cannot compile the kernel ({error}):\n{report}")
        cubin = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
        return Compiled(cubin, report)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _checked(result: tuple[Any, ...]) -> Any:
    error, *values = result
    if error:
        raise RuntimeError(f"NVRTC: {error}")
    return values[0] if values else None
