"""The few calls of the CUDA driver API that torch does not make for us, by ctypes on libcuda.

Signatures, the `_v2` names and the meaning of each call are from `cuda.h` of CUDA 13. Torch itself uses the primary
context of a device, so every call here is made with that context current: it is pushed before and popped after, since
a thread of our own has none. Not yet run on a GPU; the tests run it over a fake libcuda.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Final

from minedraft.errors import ChannelError

LIBRARY: Final = "libcuda.so.1"
HANDLE_BYTES: Final = 64  # CU_IPC_HANDLE_SIZE
LAZY_ENABLE_PEER_ACCESS: Final = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS; cuda.h: "Must be specified"


class _IpcHandle(Structure):
    _fields_ = (("reserved", c_ubyte * HANDLE_BYTES),)


class _Uuid(Structure):
    _fields_ = (("bytes", c_ubyte * 16),)


_SIGNATURES: Final = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGetUuid_v2": (POINTER(_Uuid), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuCtxSynchronize": (),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuIpcGetMemHandle": (POINTER(_IpcHandle), c_uint64),
    "cuIpcOpenMemHandle_v2": (POINTER(c_uint64), _IpcHandle, c_uint),
    "cuIpcCloseMemHandle": (c_uint64,),
}


class CudaDriver:
    """libcuda, initialised. Devices are named by ordinal, as torch does. All methods raise ChannelError, and may be
    called by any thread."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._cuda = CDLL(library)
            for name, arguments in _SIGNATURES.items():
                function = getattr(self._cuda, name)
                function.argtypes = arguments
                function.restype = c_int
        except (OSError, AttributeError) as error:
            raise ChannelError(f"the NVIDIA driver's {library} cannot be used here: {error}") from error
        self._call("cuInit", 0)

    @property
    def process_id(self) -> int:
        """Names this process to the driver's IPC."""
        return os.getpid()

    @property
    def version(self) -> str:
        """The newest CUDA that this libcuda serves, for example "13.0". Differs between containers of one host."""
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    @property
    def device_count(self) -> int:
        count = c_int()
        self._call("cuDeviceGetCount", byref(count))
        return count.value

    def device_uuid(self, ordinal: int) -> str:
        """The device's UUID as torch writes it; of a MIG instance, the instance's."""
        found = _Uuid()
        self._call("cuDeviceGetUuid_v2", byref(found), self._device(ordinal))
        return str(uuid.UUID(bytes=bytes(found.bytes)))

    def ordinal_of(self, device_uuid: str) -> int:
        """The device of this UUID, as this process counts devices."""
        for ordinal in range(self.device_count):
            if self.device_uuid(ordinal) == device_uuid:
                return ordinal
        raise ChannelError(f"GPU {device_uuid} is not visible to this process")

    @contextmanager
    def context(self, ordinal: int) -> Iterator[None]:
        """The device's primary context is current to the calling thread within."""
        context = self.retain(ordinal)
        try:
            self._call("cuCtxPushCurrent_v2", context)
            try:
                yield
            finally:
                self._call("cuCtxPopCurrent_v2", byref(c_void_p()))
        finally:
            self.release(ordinal)

    def retain(self, ordinal: int) -> c_void_p:
        """The primary context, which lives until as many releases. Memory lives no longer than its context."""
        context = c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(context), self._device(ordinal))
        return context

    def release(self, ordinal: int) -> None:
        self._call("cuDevicePrimaryCtxRelease_v2", self._device(ordinal))

    def synchronise(self) -> None:
        """Wait for all work of the current context."""
        self._call("cuCtxSynchronize")

    def allocate(self, nbytes: int) -> int:
        """The address of new memory in the current context, not cleared."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", byref(address), nbytes)
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", address)

    def export(self, address: int) -> bytes:
        """The handle, HANDLE_BYTES long, by which another process opens an allocation; `address` is its base."""
        handle = _IpcHandle()
        self._call("cuIpcGetMemHandle", byref(handle), address)
        return bytes(handle.reserved)

    def open(self, handle: bytes) -> int:
        """The address at which the current context sees another process's allocation."""
        if len(handle) != HANDLE_BYTES:
            raise ChannelError(f"a CUDA IPC handle of {len(handle)} bytes, it must have {HANDLE_BYTES}")
        address, given = c_uint64(), _IpcHandle.from_buffer_copy(handle)
        self._call("cuIpcOpenMemHandle_v2", byref(address), given, LAZY_ENABLE_PEER_ACCESS)
        return address.value

    def close(self, address: int) -> None:
        """Undo one `open`."""
        self._call("cuIpcCloseMemHandle", address)

    def _device(self, ordinal: int) -> int:
        device = c_int()
        self._call("cuDeviceGet", byref(device), ordinal)
        return device.value

    def _call(self, name: str, *arguments: object) -> None:
        result: int = getattr(self._cuda, name)(*arguments)
        if result != 0:
            raise ChannelError(f"{name} failed with {self._error_name(result)} ({result})")

    def _error_name(self, result: int) -> str:
        text = c_char_p()
        self._cuda.cuGetErrorName(result, byref(text))
        return text.value.decode("ascii", "replace") if text.value else "an unknown error"


@cache
def installed_driver() -> CudaDriver:
    """This machine's driver, loaded once. Raises ChannelError when there is none."""
    return CudaDriver()


def driver_version() -> str:
    """What `CudaDriver.version` says of this machine's driver. Raises ChannelError when there is none."""
    return installed_driver().version
