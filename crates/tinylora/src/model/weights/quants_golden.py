"""Writes quants_golden.json: one row of each quantised type with the values that the `gguf` package decodes.

    python quants_golden.py > quants_golden.json
"""
import json
from importlib.metadata import version

import gguf
import numpy as np

# Byte offsets of the f16 numbers in a block; they get small finite values, all other bytes are random.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
rng = np.random.default_rng(7)
rows = {}
for name, offsets in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (1 if block == 256 else 2, size), dtype=np.uint8)
    for row in data:
        for at in offsets:
            row[at:at + 2] = np.array([rng.normal() * 0.01], dtype=np.float16).view(np.uint8)
    values = gguf.quants.dequantize(data.reshape(1, -1), kind).reshape(-1)
    rows[name] = {"bytes": data.tobytes().hex(), "values": [float(x) for x in values.astype(np.float32)]}

# The package does not decode Q8_K: f32 scale, 256 int8, 16 int16 sums that only products use.
quants = rng.integers(-127, 128, 256).astype(np.int8)
scale = np.float32(0.0123)
sums = quants.reshape(16, 16).sum(1).astype(np.int16)
rows["Q8_K"] = {"bytes": (scale.tobytes() + quants.tobytes() + sums.tobytes()).hex(),
                "values": [float(x) for x in scale * quants.astype(np.float32)]}

lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
versions = json.dumps({"gguf": version("gguf"), "numpy": np.__version__})
print("{" + f'"versions": {versions},\n' + ",\n".join(lines) + "}")
