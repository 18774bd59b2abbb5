"""Proves the CUDA kernels on a GPU, and measures their products. Needs no network and no Rust: Python with numpy, the
driver, and either the package nvidia-cuda-nvrtc or the folder of machine code that `cargo xtask kernels` leaves in
target/kernels/images (copy it along with the tree).

gpu_check.py [--images FOLDER] [--out FILE.json] [--tinylora PROGRAM] [--model FILE.gguf] [--quick]

1. Every kernel against f64, on random and odd shapes, each run twice with the same bits: the checks of emulate.py.
2. The same once more under compute-sanitizer, where it is installed: accesses, races, uninitialised memory, barriers.
3. Times of the products of Qwen2.5 0.5B, 3B and 7B, prefill and decode, as TFLOP/s and TB/s; on a Hopper by both
   instructions, and which is faster.
4. With the program: tiny models of every family, and a real one, against the CPU; the same bits twice; an exact resume; the
   speed of the Qwen2.5 shapes with random weights, and PyTorch's beside it where it is installed.
"""

import ctypes
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import check_attention
import check_engine
import check_product
import check_rows
import check_wgmma
from emulator import struct
from gpu import Gpu, NoGpu

ROOT = Path(__file__).resolve().parents[2]
# (D, F, q + k + v)
MODELS = {"qwen2.5-0.5b": (896, 4864, 1152), "qwen2.5-3b": (2048, 11008, 2560), "qwen2.5-7b": (3584, 18944, 4608)}
SANITIZERS = ["memcheck", "racecheck", "initcheck", "synccheck"]


def is_hopper(gpu):
    return gpu.architecture == "sm_90a"


def checks(gpu, result):
    for module in (check_product, check_attention, check_rows, *([check_wgmma] if is_hopper(gpu) else [])):
        start = time.time()
        try:
            module.check(gpu, np.random.default_rng(1))
            outcome = "agrees"
        except AssertionError as error:
            outcome = str(error)
        result["checks"][module.__name__] = outcome
        print(f"{module.__name__}: {outcome} ({time.time() - start:.0f} s)", flush=True)


def sanitizers(result, arguments):
    program = shutil.which("compute-sanitizer")
    if not program:
        print("compute-sanitizer is not installed: skipped")
        return
    for tool in SANITIZERS:
        command = [program, f"--tool={tool}", "--error-exitcode=9", sys.executable, __file__, "--quick", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result["sanitizer"][tool] = "clean" if done.returncode == 0 else (done.stdout + done.stderr)[-4000:]
        print(f"compute-sanitizer {tool}: {'clean' if done.returncode == 0 else result['sanitizer'][tool]}", flush=True)


def products(gpu, result, scale):
    """Rows: 4096 tokens of prefill, and decoding of 8 to 256 sequences. `scale` divides all sizes."""
    repeats = 20 if scale == 1 else 1
    for model, sizes in MODELS.items():
        d, f, qkv = (-(-s // scale // 8) * 8 for s in sizes)
        many = 4096 // scale
        for what, (n, k) in {"qkv": (qkv, d), "o": (d, d), "gate_up": (2 * f, d), "down": (d, f)}.items():
            for rows, back in [(8, False), (16, False), (64, False), (256, False), (many, False), (many, True)]:
                measured = [one_product(gpu, kernel, rows, n, k, back, repeats) for kernel in kernels(gpu, rows, n, k, back)]
                where = {"model": model, "what": what, "rows": rows, "back": back}
                result["products"] += [{**where, **one} for one in measured]
                if is_hopper(gpu):
                    seconds = {way: min(m["seconds"] for m in measured if (way == "wgmma") == m["kernel"].startswith("wgmma"))
                               for way in ("mma", "wgmma")}
                    result["faster"].append({**where, **seconds})
        print(f"{model}: products measured", flush=True)
    if result["faster"]:
        faster(result["faster"])


def kernels(gpu, rows, n, k, back):
    """What the engine would launch by either instruction, and what else could be: (name, launch, tile)."""
    ways = ["back"] if back else ["few", "large"] if rows == 64 else ["few"] if rows < 64 else ["large"]
    yield from (("product", way, check_product.SHAPES[way]) for way in ways)
    if is_hopper(gpu):
        least = min(check_wgmma.BACK) if back else 8
        fits = [tokens for tokens in check_wgmma.RINGS if tokens >= max(rows, least)][:1] or [128, 256]
        yield from (("wgmma", f"back_{tokens}" if back else str(tokens), tokens) for tokens in fits)


def faster(measured):
    """Says which instruction is faster, of training and of decode, by the sums of times."""
    for what, some in {"training": [m for m in measured if m["rows"] > 256 or m["back"]],
                       "decode": [m for m in measured if m["rows"] <= 256 and not m["back"]]}.items():
        for m in some:
            name = f"{m['model']} {m['what']}, {m['rows']} rows{' back' if m['back'] else ''}"
            print(f"{name}: mma {m['mma'] * 1e6:.1f} us, wgmma {m['wgmma'] * 1e6:.1f} us", flush=True)
        mma, wgmma = (sum(m[way] for m in some) for way in ("mma", "wgmma"))
        best = "wgmma" if wgmma < mma else "mma"
        print(f"{what}: {best} is {max(mma / wgmma, wgmma / mma):.2f} times as fast (TINYLORA_CUDA_PRODUCTS={best})", flush=True)


def one_product(gpu, kernel, rows, n, k, back, repeats):
    unit, way, tile = kernel
    inner, columns = (n, k) if back else (k, n)
    random = np.random.default_rng(0)
    bits = lambda *size: (random.integers(0, 1 << 15, size, dtype=np.uint16) & 0x3FF | 0x3E00)
    a, b, out = (gpu.place(x) for x in (bits(rows, inner), bits(n, k), np.zeros((rows, columns), np.uint16)))
    if unit == "wgmma":
        _, threads, shared = check_wgmma.launch_of(tile)
        count = check_wgmma.tiles(tile, rows, columns)
        blocks = (min(count, gpu.attribute(16)) if tile == max(check_wgmma.RINGS) else count,)
        box = check_wgmma.BOX
        structs = [gpu.tensor_map(b, k, n, k, (box, box)), gpu.tensor_map(a, inner, rows, inner, (box, tile)),
                   struct(check_wgmma.EXTENT, (rows, columns, inner))]
    else:
        bm, bn, threads, shared = tile
        blocks = (-(-rows // bm), -(-columns // bn))
        structs = [struct(check_product.OPERANDS, (a, b, inner, k, rows, columns, inner))]
    side = struct(check_product.SIDE, (0,) * 9)
    buffer = lambda x: ctypes.create_string_buffer(bytes(x), len(x))
    parameters = [*map(buffer, structs), ctypes.c_uint64(0), buffer(side), ctypes.c_uint64(out), ctypes.c_int(columns)]
    name = f"{unit}_{way}_bf16"
    seconds = gpu.time(lambda: gpu.launch(name, blocks, threads, shared, parameters), repeats)
    for address in (a, b, out):
        gpu.free(address)
    moved = 2 * (rows * inner + n * k + rows * columns)
    return {"kernel": name, "n": n, "k": k, "seconds": seconds, "flops_per_second": 2 * rows * n * k / seconds,
            "bytes_per_second": moved / seconds}


def main(arguments):
    option = lambda name, default: Path(arguments[arguments.index(name) + 1]) if name in arguments else default
    images = option("--images", ROOT / "target/kernels/images")
    out = option("--out", ROOT / "target/kernels/gpu-check.json")
    quick = "--quick" in arguments
    try:
        gpu = Gpu(images)
    except NoGpu as error:
        print(f"nothing can be checked here: {error}")
        return 3
    print(f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}, driver interface {gpu.driver}")
    result = {"gpu": gpu.name, "capability": gpu.capability, "driver": gpu.driver, "checks": {}, "sanitizer": {},
              "products": [], "faster": []}
    checks(gpu, result)
    if not quick:
        sanitizers(result, [a for a in arguments if a != "--quick"])
        emulated = gpu.name.startswith("emulated")
        products(gpu, result, 64 if emulated else 1)
        program, model = option("--tinylora", None), option("--model", None)
        if program:
            ways = ["mma", "wgmma"] if is_hopper(gpu) else ["mma"]
            if not check_engine.check(program.resolve(), images, result, emulated, [model] if model else [], gpu.count, ways):
                result["checks"]["engine"] = "some of it differs"
        else:
            print("--tinylora names no program: the engine is not checked")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"results in {out}")
    bad = [c for c in result["checks"].values() if c != "agrees"] + [s for s in result["sanitizer"].values() if s != "clean"]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
