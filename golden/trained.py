"""What short runs of the engine leave, in PEFT and transformers: a LoRA and a LoRA-XS as PEFT loads them, and the `model/` folder
of a run that trains all weights. Each run is made here, on the tiny models; prints JSON.

    cargo build --release --workspace
    python golden/trained.py target/release/tinylora

For each model and kind: the largest difference of log-probs between the engine and PEFT or transformers, as a part of the
largest log-prob, both in f32; and by how much training moved them at most, so that nothing can agree by doing nothing.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from peft import PeftModel

from make_models import MODELS
from reference import versions
from roundtrip import LIMIT, largest, load, scores, tinylora

NAMES = ("llama2", "gemma3")
TEXTS = ("What is 14 + 9? 23", "Zürich, naïve café, 你好", "a\ttab and\r\nlines")
RECIPE = """
name = "trained"
seed = 5
[model]
ref = "{model}"
chat_template = false
[task]
kind = "arithmetic"
problems = "sum"
max = 50
[reward]
scorer = "command"
command = ["{python}", "{grader}"]
[rollout]
prompts_per_step = 4
samples_per_prompt = 4
max_tokens = 12
[optimizer]
learning_rate = 0.01
[train]
steps = 3
[eval]
problems = 4
"""
GRADER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"reward": sum(json.loads(line)["completion"].encode()) % 5}), flush=True)
"""


def prepare(place: Path, name: str) -> tuple[Path, Path]:
    """The model's folder with a tokenizer of bytes, and a recipe."""
    model = place / "base"
    model.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(MODELS / name / file, model)
    shutil.copy(MODELS.parent / "tokenizer" / "bytes.json", model / "tokenizer.json")
    (model / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    grader, recipe = place / "grader.py", place / "recipe.toml"
    grader.write_text(GRADER)
    recipe.write_text(RECIPE.format(model=model, python=sys.executable, grader=grader))
    return model, recipe


def moved(before: list, after: list) -> float:
    return max(abs(x - y) for p, q in zip(before, after) for x, y in zip(p["logprobs"][1:], q["logprobs"][1:]))


def check(program: str, place: Path, name: str) -> dict:
    model, recipe = prepare(place, name)
    rows = [{"text": text} for text in TEXTS]
    plain = scores(program, model, rows)
    found = {"base": {"error": largest(plain, load(model)), "moved": None}}
    for kind in ("tinylora", "lora", "lora-xs", "full"):
        out = place / kind
        more = [] if kind == "full" else ["--set", "adapter.rank=2"]
        tinylora(program, "train", recipe, "--out", out, "--set", f"adapter.kind={kind}", *more)
        if kind == "full":
            ours, theirs = scores(program, out / "model", rows), load(out / "model")
        else:
            adapter, folder, back = out / "adapter.tinylora", place / f"{kind}-peft", place / f"{kind}.tinylora"
            tinylora(program, "adapter", "export", adapter, "--model", model, "--format", "peft", "--out", folder)
            # The factors of the folder, so that both sides have the same ones.
            tinylora(program, "adapter", "import", folder, "--model", model, "--out", back)
            ours = scores(program, model, rows, "--adapter", back)
            theirs = PeftModel.from_pretrained(load(model), folder).eval()
        found[kind] = {"error": largest(ours, theirs), "moved": moved(plain, ours)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    program = parser.parse_args().program
    found = {}
    for name in NAMES:
        with tempfile.TemporaryDirectory() as place:
            os.environ["TINYLORA_CACHE"] = str(Path(place) / "cache")
            found[name] = check(program, Path(place), name)
            print(name, found[name], file=sys.stderr)
    print(json.dumps({"versions": versions(), "models": found}, indent=2))
    wrong = [
        f"{name}, {kind}: {values}"
        for name, kinds in found.items()
        for kind, values in kinds.items()
        if not values["error"] <= LIMIT or values["moved"] is not None and not values["moved"] > 1e-3
    ]
    sys.exit(f"not as it should be: {'; '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
