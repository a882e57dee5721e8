"""The GPU that runs the kernel: what it offers, and cooperative launches of a cubin through the driver.

The driver is called by cuda-bindings, which torch with CUDA brings along; cuda-core, which is built on it, would be one
package more.
"""

import ctypes
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from wavenet_ae.sampler import DoesNotFit
from wavenet_ae.sampler.cuda import compiling
from wavenet_ae.sampler.cuda.layout import Plan

OLDEST = (8, 0)  # compute capability that is compiled for and tested so


def unavailable(device: torch.device | None = None) -> str | None:
    """Why no GPU, or not this one, can run the kernel here, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device here"
    there = device if device is not None and device.type == "cuda" else None
    if torch.cuda.get_device_capability(there) < OLDEST:
        return f"the GPU's compute capability is {torch.cuda.get_device_capability(there)}: expected at least {OLDEST}"
    try:
        from cuda.bindings import driver  # noqa: F401
    except ImportError as error:
        return f"it launches its kernel through cuda-bindings ({error}): pip install 'wavenet_ae[cuda]'"
    return None


class Gpu:
    """A CUDA device: one block on each of its multiprocessors.

    `changed` constants are for measurements: with WAITS=0 no block waits for another, with MULTIPLIES=0 there
    are no products and no weights, and the codes mean nothing.
    """

    def __init__(self, device: torch.device, changed: Mapping[str, int] | None = None):
        self.changed = dict(changed or {})
        self.device = device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(self.device)
        self.blocks = properties.multi_processor_count
        self.shared = _shared_memory(self.device.index)
        suffix = "a" if properties.major >= 9 else ""
        self.architecture = f"sm_{properties.major}{properties.minor}{suffix}"

    def load(self, plan: Plan) -> Callable[[bytes], None]:
        """The kernel for these sizes, compiled at first use; launches go to torch's current stream.

        Raises:
            RuntimeError: it cannot be compiled.
            DoesNotFit: its blocks cannot all be there at the same time.
        """
        kernel = compiling.compiled(plan.constants | self.changed, self.architecture)
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().synchronize()  # makes the device's context the thread's
            function = _load(kernel.cubin, self.device.index, plan.shared_bytes)
            self._check(function, plan)
        return functools.partial(self._launch, function, plan)

    def _check(self, function: Any, plan: Plan) -> None:
        from cuda.bindings import driver

        together = _checked(
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, plan.threads, plan.shared_bytes)
        )
        if together * self.blocks < plan.blocks:
            raise DoesNotFit(
                f"{plan.blocks} blocks cannot run together on {self.blocks} multiprocessors, {together} on each: use "
                "engine='batched'"
            )

    def _launch(self, function: Any, plan: Plan, call: bytes) -> None:
        from cuda.bindings import driver

        argument = ctypes.create_string_buffer(call, len(call))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        with torch.cuda.device(self.device):
            stream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
            grid, block = (plan.blocks, 1, 1), (plan.threads, 1, 1)
            _checked(
                driver.cuLaunchCooperativeKernel(
                    function, *grid, *block, plan.shared_bytes, stream, ctypes.addressof(arguments)
                )
            )


def _shared_memory(device: int) -> int:
    """The most bytes of shared memory that a block may ask for."""
    from cuda.bindings import driver

    _checked(driver.cuInit(0))
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_checked(driver.cuDeviceGetAttribute(attribute, _checked(driver.cuDeviceGet(device)))))


@functools.lru_cache(maxsize=64)
def _load(cubin: bytes, device: int, shared: int) -> Any:
    """A function of the device's current context; modules stay loaded, so one of a kind is enough."""
    from cuda.bindings import driver

    function = _checked(driver.cuModuleGetFunction(_checked(driver.cuModuleLoadData(cubin)), b"speak"))
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _checked(driver.cuFuncSetAttribute(function, attribute, shared))
    return function


def _checked(result: tuple[Any, ...]) -> Any:
    from cuda.bindings import driver

    error, *values = result
    if error:
        _, name = driver.cuGetErrorName(error)
        _, why = driver.cuGetErrorString(error)
        raise RuntimeError(f"the GPU's driver: {name.decode()}, {why.decode()}")
    return values[0] if values else None
