"""The GPU that runs a kernel: what it offers, and launches of a cubin through the driver, all blocks together.

The driver is called by cuda-bindings, which torch with CUDA brings along; cuda-core, which is built on it, would be one
package more.
"""

import ctypes
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from wavenet_ae.sampler import DoesNotFit
from wavenet_ae.sampler.cuda import compiling

OLDEST = (8, 0)  # compute capability that is compiled for and tested so
PORTABLE = 8  # blocks of a cluster that any GPU with clusters has; more must be asked for


@runtime_checkable
class Launched(Protocol):
    """Sizes of a kernel and of its launches."""

    @property
    def kernel(self) -> str:
        """The file it is in."""
        ...

    @property
    def constants(self) -> dict[str, int]:
        """What it is compiled with."""
        ...

    @property
    def grid(self) -> int:
        """Blocks of a launch, all of which are there together if they are not in clusters."""
        ...

    @property
    def cluster(self) -> int:
        """Blocks that reach into each other's shared memory, or 0."""
        ...

    @property
    def threads(self) -> int:
        """Of a block."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        ...


def unavailable(device: torch.device | None = None, oldest: tuple[int, int] = OLDEST) -> str | None:
    """Why no GPU, or not this one, can run a kernel for such compute capabilities here, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device here"
    there = device if device is not None and device.type == "cuda" else None
    if torch.cuda.get_device_capability(there) < oldest:
        return f"the GPU's compute capability is {torch.cuda.get_device_capability(there)}: expected at least {oldest}"
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

    def load(self, plan: Launched) -> Callable[[bytes], None]:
        """The kernel for these sizes, compiled at first use; launches go to torch's current stream.

        Raises:
            RuntimeError: it cannot be compiled.
            DoesNotFit: its blocks cannot all be there at the same time.
        """
        function = self._function(plan)
        if not plan.cluster and (together := self._blocks_together(function, plan)) < plan.grid:
            raise DoesNotFit(
                f"{plan.grid} blocks cannot run together on {self.blocks} multiprocessors, which have room for "
                f"{together}: use engine='batched'"
            )
        return functools.partial(self._launch, function, plan)

    def together(self, plan: Launched) -> int:
        """How many clusters of a kernel's blocks can be there at the same time."""
        from cuda.bindings import driver

        function, none = self._function(plan), driver.CUresult.CUDA_ERROR_INVALID_CLUSTER_SIZE
        with torch.cuda.device(self.device):
            result = driver.cuOccupancyMaxActiveClusters(function, _configuration(plan))
        return 0 if result[0] in (none, driver.CUresult.CUDA_ERROR_INVALID_VALUE) else int(_checked(result))

    def _function(self, plan: Launched) -> Any:
        kernel = compiling.compiled(plan.kernel, plan.constants | self.changed, self.architecture)
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().synchronize()  # makes the device's context the thread's
            return _load(kernel.cubin, self.device.index, plan.shared_bytes, plan.cluster)

    def _blocks_together(self, function: Any, plan: Launched) -> int:
        from cuda.bindings import driver

        each = _checked(driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, plan.threads, plan.shared_bytes))
        return int(each) * self.blocks

    def _launch(self, function: Any, plan: Launched, call: bytes) -> None:
        from cuda.bindings import driver

        argument = ctypes.create_string_buffer(call, len(call))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        with torch.cuda.device(self.device):
            stream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
            if plan.cluster:
                in_clusters = _configuration(plan, stream)
                _checked(driver.cuLaunchKernelEx(in_clusters, function, ctypes.addressof(arguments), 0))
                return
            grid, block = (plan.grid, 1, 1), (plan.threads, 1, 1)
            _checked(
                driver.cuLaunchCooperativeKernel(
                    function, *grid, *block, plan.shared_bytes, stream, ctypes.addressof(arguments)
                )
            )


def _configuration(plan: Launched, stream: Any = None) -> Any:
    """A launch in clusters."""
    from cuda.bindings import driver

    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    value = attribute.value
    value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = plan.cluster, 1, 1
    attribute.value = value
    configuration = driver.CUlaunchConfig()
    configuration.gridDimX, configuration.gridDimY, configuration.gridDimZ = plan.grid, 1, 1
    configuration.blockDimX, configuration.blockDimY, configuration.blockDimZ = plan.threads, 1, 1
    configuration.sharedMemBytes = plan.shared_bytes
    configuration.attrs, configuration.numAttrs = [attribute], 1  # copied
    if stream is not None:
        configuration.hStream = stream
    return configuration


def _shared_memory(device: int) -> int:
    """The most bytes of shared memory that a block may ask for."""
    from cuda.bindings import driver

    _checked(driver.cuInit(0))
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_checked(driver.cuDeviceGetAttribute(attribute, _checked(driver.cuDeviceGet(device)))))


@functools.lru_cache(maxsize=64)
def _load(cubin: bytes, device: int, shared: int, cluster: int) -> Any:
    """A function of the device's current context; modules stay loaded, so one of a kind is enough."""
    from cuda.bindings import driver

    function = _checked(driver.cuModuleGetFunction(_checked(driver.cuModuleLoadData(cubin)), b"speak"))
    attributes = driver.CUfunction_attribute
    _checked(driver.cuFuncSetAttribute(function, attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared))
    if cluster > PORTABLE:
        allowed = attributes.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
        _checked(driver.cuFuncSetAttribute(function, allowed, 1))
    return function


def _checked(result: tuple[Any, ...]) -> Any:
    from cuda.bindings import driver

    error, *values = result
    if error:
        _, name = driver.cuGetErrorName(error)
        _, why = driver.cuGetErrorString(error)
        raise RuntimeError(f"the GPU's driver: {name.decode()}, {why.decode()}")
    return values[0] if values else None
