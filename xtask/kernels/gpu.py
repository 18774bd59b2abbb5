"""Kernels on a GPU, through the driver's own interface: arrays enter, what a kernel writes leaves. It has the same `run` as
the emulator, so that the same checks run on both. Needs the driver, and either NVRTC or machine code made before."""

import ctypes
import os
import re

import numpy as np

import compile as compiler
from emulator import CUDA, Differs, Struct, tensor_map

ERRORS = {2: "out of memory", 3: "not initialised", 100: "no GPU", 101: "no such GPU", 209: "no machine code for this GPU",
          218: "machine code that the driver can't read (is the driver 580 or newer?)", 500: "no such kernel",
          700: "an access outside of memory", 701: "too many resources asked for", 719: "the kernel failed"}
# The oldest driver interface that can read what NVRTC 13 makes.
OLDEST_DRIVER = 13000


class NoGpu(Exception):
    """Why there is nothing to check on."""


def architecture(major, minor):
    """The machine code for a compute capability."""
    if major < 8:
        raise NoGpu(f"the GPU has compute capability {major}.{minor}; bf16 on tensor cores needs 8.0 (Ampere) or newer")
    if (major, minor) == (9, 0):
        return "sm_90a"
    return {(8, 9): "sm_89"}.get((major, minor), "sm_80" if major == 8 else "sm_120" if major == 12 else "")


class Gpu:
    def __init__(self, folder):
        name = os.environ.get("TINYLORA_CUDA_DRIVER", "libcuda.so.1")
        try:
            self.cuda = ctypes.CDLL(name)
        except OSError as error:
            raise NoGpu(f"there is no NVIDIA driver on this machine ({error})") from error
        status = self.cuda.cuInit(0)
        if status:
            raise NoGpu(f"the driver finds no GPU: {ERRORS.get(status, status)}")
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        self.count = count.value
        version, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        if version.value < OLDEST_DRIVER:
            raise NoGpu(f"the driver knows CUDA {version.value // 1000}.{version.value % 1000 // 10}; 13.0 is needed: update it to 580 or newer")
        self.call("cuDeviceGet", ctypes.byref(device), int((os.environ.get("TINYLORA_GPU") or "0").split(",")[0]))
        self.device = device.value
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        text = ctypes.create_string_buffer(200)
        self.call("cuDeviceGetName", text, 200, device)
        self.name, self.driver = text.value.decode(), version.value
        self.capability = (self.attribute(75), self.attribute(76))
        self.architecture = architecture(*self.capability)
        if not self.architecture:
            raise NoGpu(f"no machine code is made for compute capability {self.capability}; add it to GPUS in compile.py")
        self.folder, self.nvrtc, self.functions, self.modules = folder, None, {}, {}

    def call(self, name, *arguments):
        status = getattr(self.cuda, name)(*arguments)
        if status:
            raise Differs(f"{name}: {ERRORS.get(status, f'error {status}')}")

    def tensor_map(self, *what):
        return tensor_map(self.cuda, *what)

    def attribute(self, number):
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), number, self.device)
        return value.value

    def image(self, path, defines):
        stored = self.folder / compiler.image_name(path, self.architecture, defines)
        if stored.is_file():
            return stored.read_bytes()
        if self.nvrtc is None:
            self.nvrtc = compiler.library()
        _, image = compiler.compile_one(self.nvrtc, path, self.architecture, defines)
        self.folder.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(image)
        return image

    def function(self, name, shared):
        if (name, shared) in self.functions:
            return self.functions[name, shared]
        head = re.fullmatch(r"attention_\w+_(\d+)", name)
        defines = [f"-DHEAD={head[1]}"] if head else []
        pattern = re.compile(rf"(KERNEL|PRODUCT)\((NAMED\()?{name.removesuffix('_' + head[1]) if head else name}\b")
        path = next((p for p in sorted((CUDA / "kernels").glob("*.cu")) if pattern.search(p.read_text())), None)
        if path is None:
            raise Differs(f"no file has the kernel {name}")
        if (path, *defines) not in self.modules:
            module = ctypes.c_void_p()
            self.call("cuModuleLoadData", ctypes.byref(module), self.image(path, defines))
            self.modules[path, *defines] = module
        function = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(function), self.modules[path, *defines], name.encode())
        if shared > 48 << 10:
            self.call("cuFuncSetAttribute", function, 8, shared)
        self.functions[name, shared] = function
        return function

    def place(self, x):
        x, address = np.ascontiguousarray(x), ctypes.c_uint64()
        # A boundary of 16 bytes for every array, and never nothing.
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(x.nbytes, 16)))
        self.call("cuMemcpyHtoD_v2", address, x.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(x.nbytes))
        return address.value

    def free(self, address):
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def read(self, address, x):
        copy = np.empty_like(np.ascontiguousarray(x))
        self.call("cuMemcpyDtoH_v2", copy.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(address), ctypes.c_size_t(copy.nbytes))
        return copy

    def launch(self, name, blocks, threads, shared, parameters):
        list_of = (ctypes.c_void_p * len(parameters))(*[ctypes.addressof(p) for p in parameters])
        x, y, z = (list(blocks) + [1, 1])[:3]
        self.call("cuLaunchKernel", self.function(name, shared), x, y, z, threads, 1, 1, shared, None, list_of, None)

    def run(self, name, blocks, threads, shared, arguments, pointers=()):
        """As Emulator.run; twice, with the same bits."""
        first, second = (self.run_once(name, blocks, threads, shared, arguments, pointers) for _ in range(2))
        for a, b in zip(first, second):
            if a.tobytes() != b.tobytes():
                raise Differs(f"{name}: two runs give different bits")
        return first

    def run_once(self, name, blocks, threads, shared, arguments, pointers):
        behind = [self.place(x) for x in pointers]
        placed, parameters = [], []
        for x in arguments:
            if callable(x):
                x = x(*behind)
            if isinstance(x, np.ndarray):
                placed.append((self.place(x), x))
                parameters.append(ctypes.c_uint64(placed[-1][0]))
            elif isinstance(x, Struct):
                parameters.append(ctypes.create_string_buffer(bytes(x), len(x)))
            elif x is None:
                parameters.append(ctypes.c_uint64(0))
            else:
                parameters.append(ctypes.c_float(x) if isinstance(x, float) else ctypes.c_int(int(x)))
        self.launch(name, blocks, threads, shared, parameters)
        self.call("cuCtxSynchronize")
        out = []
        for address, x in placed + list(zip(behind, pointers)):
            out.append(self.read(address, x))
            self.free(address)
        return out

    def time(self, work, repeats):
        """Seconds that one call of work takes, the median of three rounds of so many."""
        events = [ctypes.c_void_p() for _ in range(2)]
        for event in events:
            self.call("cuEventCreate", ctypes.byref(event), 0)
        work()
        rounds = []
        for _ in range(3):
            self.call("cuEventRecord", events[0], None)
            for _ in range(repeats):
                work()
            self.call("cuEventRecord", events[1], None)
            self.call("cuEventSynchronize", events[1])
            taken = ctypes.c_float()
            self.call("cuEventElapsedTime", ctypes.byref(taken), *events)
            rounds.append(taken.value / 1e3 / repeats)
        for event in events:
            self.call("cuEventDestroy_v2", event)
        return sorted(rounds)[1]
