"""Kernels compiled by the C++ compiler and run on the CPU: arrays enter, what a kernel writes leaves.

Every launch runs four times, in four orders of what is free to differ (see emulate.cpp); all must give the same bits.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

CUDA = Path(__file__).resolve().parents[2] / "crates/tinylora-compute/src/cuda"
FLAGS = ["-std=c++17", "-fPIC", "-march=native", "-ffp-contract=off", "-DEMULATED", "-w"]
if platform.machine() == "x86_64":
    # What each thread has is looked at everywhere; this way it needs no call.
    FLAGS.append("-mtls-dialect=gnu2")
# What head sizes are padded to.
HEADS = [16, 32, 64, 80, 96, 128, 256]


def compiler():
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


# The kernels that each check runs.
FILES = {
    "check_product": ["product", "outer", "side", "thin"],
    "check_wgmma": ["wgmma"],
    "check_attention": ["attention"],
    "check_rows": ["product", "norm", "activation", "heads", "rows", "head", "optimizer", "side", "slopes", "outer"],
}


def build(folder, changes=(), only=None):
    """Compiles the kernels, or those of one check, to one library. `changes` are (file, from, to): planted errors."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = folder / "kernels"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.copytree(CUDA / "kernels", sources)
    for file, old, new in changes:
        text = (sources / file).read_text()
        assert old in text, f"{file} has no {old!r} to replace"
        (sources / file).write_text(text.replace(old, new))
    # The device is what takes the time; the kernels are many and large.
    units = [(CUDA / f"emulated/{name}.cpp", ["-O2"], name) for name in ("emulate", "hopper", "driver")]
    for path in sorted(sources.glob("*.cu")):
        if only and path.stem not in FILES[only]:
            continue
        if path.name == "attention.cu":
            units += [(path, ["-O1", f"-DHEAD={head}"], f"attention{head}") for head in HEADS]
        else:
            units.append((path, ["-O1"], path.stem))
    include = [f"-I{CUDA / 'emulated'}", f"-I{sources}"]

    def compiled(unit):
        path, flags, name = unit
        made = folder / f"{name}.o"
        subprocess.run([compiler(), *FLAGS, *flags, *include, "-x", "c++", "-c", path, "-o", made], check=True)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units))
    library = folder / "kernels.so"
    subprocess.run([compiler(), "-shared", *objects, "-o", library], check=True)
    return library


def to_bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x):
    return (np.asarray(x, np.uint16).astype(np.uint32) << 16).view(np.float32)


def rounded(x):
    return from_bf16(to_bf16(x))


class Struct(bytes):
    """The bytes of an argument that is passed by value."""


def struct(kind, *values):
    """`kind` is numpy's description of a C struct with C's own alignment."""
    return Struct(np.array(values if len(values) != 1 else values[0], dtype=np.dtype(kind, align=True)).tobytes())


def tensor_map(driver, address, columns, rows, row, box):
    """What describes bf16 rows of so many numbers, `row` numbers apart, to copies of boxes (columns, rows), as the kernels
    of products on wgmma want it."""
    words = (ctypes.c_uint64 * 24)()
    # The driver writes to a boundary of 64 bytes.
    start = -ctypes.addressof(words) % 64
    sizes, strides, ones = (ctypes.c_uint64 * 2)(columns, rows), (ctypes.c_uint64 * 1)(row * 2), (ctypes.c_uint32 * 2)(1, 1)
    status = driver.cuTensorMapEncodeTiled(ctypes.c_void_p(ctypes.addressof(words) + start), 9, 2, ctypes.c_void_p(address),
                                           sizes, strides, (ctypes.c_uint32 * 2)(*box), ones, 0, 3, 2, 0)
    if status:
        raise Differs(f"cuTensorMapEncodeTiled: error {status}")
    return Struct(bytes(words)[start:start + 128])


class Differs(AssertionError):
    """A result that is not what it has to be."""


class Emulator:
    def __init__(self, library):
        self.library = ctypes.CDLL(str(library))
        self.library.emulated_allocate.restype = ctypes.c_void_p
        self.library.emulated_allocate.argtypes = [ctypes.c_size_t]
        self.library.emulated_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def tensor_map(self, *what):
        return tensor_map(self.library, *what)

    def place(self, x):
        x = np.ascontiguousarray(x)
        address = self.library.emulated_allocate(x.nbytes)
        ctypes.memmove(address, x.ctypes.data, x.nbytes)
        return address

    def run(self, name, blocks, threads, shared, arguments, pointers=()):
        """`arguments`: arrays, ints (int), floats (float), None (null), Struct, or a function from addresses to a Struct,
        which gets those of `pointers`. Gives all arrays as they are afterwards, in order, then those of pointers."""
        results = [self.run_once(name, blocks, threads, shared, arguments, pointers, order) for order in range(4)]
        for order, other in enumerate(results[1:], 1):
            for first, second in zip(results[0], other):
                if first.tobytes() != second.tobytes():
                    raise Differs(f"{name}: order {order} gives other bits than order 0: a barrier or wait is missing")
        return results[0]

    def run_once(self, name, blocks, threads, shared, arguments, pointers, order):
        behind = [self.place(x) for x in pointers]
        placed, parameters = [], []
        for x in arguments:
            if callable(x):
                x = x(*behind)
            if isinstance(x, np.ndarray):
                placed.append((self.place(x), x))
                parameters.append(ctypes.c_void_p(placed[-1][0]))
            elif isinstance(x, Struct):
                parameters.append(ctypes.create_string_buffer(bytes(x), len(x)))
            elif x is None:
                parameters.append(ctypes.c_void_p(0))
            elif isinstance(x, float):
                parameters.append(ctypes.c_float(x))
            else:
                parameters.append(ctypes.c_int(int(x)))
        grid = (ctypes.c_int * 3)(*(list(blocks) + [1, 1])[:3])
        list_of = (ctypes.c_void_p * len(parameters))(*[ctypes.addressof(p) for p in parameters])
        status = self.library.emulated_launch(name.encode(), grid, threads, shared, list_of, order)
        if status:
            raise Differs(f"{name}: {['', 'no such kernel', 'more threads than the kernel has', 'it fails, as said above'][status]}")
        out = []
        for address, x in placed + list(zip(behind, pointers)):
            x = np.ascontiguousarray(x)
            copy = np.empty_like(x)
            ctypes.memmove(copy.ctypes.data, address, x.nbytes)
            self.library.emulated_free(address, x.nbytes)
            out.append(copy)
        return out


def close(what, found, expected, tolerance):
    """Fails unless |found − expected| ≤ tolerance · the largest |expected|, everywhere."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise Differs(f"{what}: shape {found.shape}, not {expected.shape}")
    error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not error <= tolerance:
        raise Differs(f"{what}: off by {error:.2e} of the largest number, more than {tolerance:.0e}")
