"""Compiles every kernel to machine code for every kind of GPU with NVRTC, which needs no GPU, and holds the registers
and spilled bytes of each against the ceilings in ceilings.json (the largest over all GPUs).

compile.py FOLDER           check; the machine code goes to the folder
compile.py FOLDER --few     the same for the oldest kind and Hopper alone
compile.py FOLDER --make    write ceilings.json
"""

import ctypes
import hashlib
import json
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from emulator import HEADS

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "crates/tinylora-compute/src/cuda/kernels"
CEILINGS = HERE / "ceilings.json"
GPUS = ["sm_80", "sm_89", "sm_90a", "sm_120"]
FEW = ["sm_80", "sm_90a"]
# Files of kernels that one kind of GPU alone can run.
ONLY = {"wgmma": "sm_90a"}
# Without contraction a product and a sum are two roundings wherever they stand, so that kernels for many and for few
# rows agree; where one rounding is wanted, the kernels say fmaf.
OPTIONS = ["--std=c++17", "--fmad=false", "--ptxas-options=-v"]


def library():
    import nvidia

    for folder in nvidia.__path__:
        builtins = sorted(Path(folder).glob("*/lib/libnvrtc-builtins.so*"))
        found = [p for p in sorted(Path(folder).glob("*/lib/libnvrtc.so*")) if ".alt." not in p.name]
        if found and builtins:
            ctypes.CDLL(str(builtins[0]), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(found[0]))
    raise SystemExit("the package nvidia-cuda-nvrtc is not installed")


def image_name(path, gpu, defines):
    """The file of a kernel's machine code: it changes with whatever the code depends on."""
    parts = [path.read_bytes(), *[h.read_bytes() for h in sorted(KERNELS.glob("*.cuh"))], gpu.encode(), repr(OPTIONS).encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return "-".join([path.stem, *[d.partition("=")[2] for d in defines], gpu, digest]) + ".cubin"


def compile_one(gpu, path, head):
    """Registers and spilled bytes by kernel, what else the compiler says, the file's name and the machine code."""
    nvrtc, defines = library(), [] if head is None else [f"-DHEAD={head}"]
    headers = sorted(KERNELS.glob("*.cuh"))
    texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
    names = (ctypes.c_char_p * len(headers))(*[h.name.encode() for h in headers])
    program = ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), len(headers), texts, names):
        raise SystemExit(f"{path.name}: NVRTC takes no program")
    options = [f"--gpu-architecture={gpu}", *OPTIONS, *defines]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    if status or size.value == 0:
        raise SystemExit(f"{path.name} for {gpu} {defines}:\n{log.value.decode()}")
    image = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, image)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = log.value.decode()
    # What it says where it makes products wait for each other, or leaves registers as they are.
    said = [f"{path.name}: {line}" for line in log.splitlines() if re.search("serialized|setmaxnreg", line)]
    return resources(log), said, image_name(path, gpu, defines), image.raw


def resources(log):
    """Kernel → (registers, spilled bytes)."""
    found, name, spilled = {}, None, 0
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        if match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = max(int(match[1]), int(match[2]))
        if match := re.search(r"Used (\d+) registers", line):
            found[name] = (int(match[1]), spilled)
    return found


def units(gpus):
    """(kind of GPU, file, head size), those that take longest first."""
    found = []
    for gpu in gpus:
        for path in sorted(KERNELS.glob("*.cu")):
            if ONLY.get(path.stem, gpu) == gpu:
                found += [(gpu, path, head) for head in (HEADS if path.name == "attention.cu" else [None])]
    return sorted(found, key=lambda unit: -(unit[2] or 0))


def main(folder, make, gpus):
    folder.mkdir(parents=True, exist_ok=True)
    start, all_found, count, problems = time.time(), {}, 0, []
    # In processes, each with a compiler of its own.
    with ProcessPoolExecutor() as pool:
        for found, said, name, image in pool.map(compile_one, *zip(*units(gpus))):
            (folder / name).write_bytes(image)
            problems += said
            count += len(found)
            for name, (registers, spilled) in found.items():
                before = all_found.get(name, (0, 0))
                all_found[name] = (max(registers, before[0]), max(spilled, before[1]))
    if make:
        lines = [f'  "{name}": {list(all_found[name])}' for name in sorted(all_found)]
        CEILINGS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    ceilings = json.loads(CEILINGS.read_text())
    for name, (registers, spilled) in sorted(all_found.items()):
        most = ceilings.get(name)
        if most is None:
            problems.append(f"{name} has no ceiling in ceilings.json")
        elif registers > most[0] or spilled > most[1]:
            problems.append(f"{name} uses {registers} registers and spills {spilled} bytes; its ceiling is {most}")
    problems += [f"{name} is in ceilings.json but is no kernel" for name in ceilings if name not in all_found]
    print("\n".join(problems) or f"{count} kernels for {', '.join(gpus)} compiled in {time.time() - start:.0f} s")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--make" in sys.argv[2:], FEW if "--few" in sys.argv[2:] else GPUS))
