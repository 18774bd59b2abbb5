"""The whole engine on a GPU, through the program `tinylora`: tiny models of every family and SmolLM2 against the CPU, the same
bits twice, an exact resume, then its speed with random weights and that of PyTorch beside it. Texts and numbers enter,
results leave; only Python's own library is needed, but for PyTorch's part."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ["llama2", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"]
SHAPES = ["qwen2.5-0.5b", "qwen2.5-3b", "qwen2.5-7b"]
# Activations are rounded to bf16 at other places than on the CPU: nats of a log-prob.
MOST_OFF = 0.15
TEXTS = ["1 + 2 = 3", "What is 17 times 3? It is 51.", "A"]
RECIPE = """
name = "gpu-check"
seed = 5
[model]
ref = "{model}"
chat_template = false
[adapter]
{adapter}
[task]
kind = "arithmetic"
problems = "sum"
max = 50
[reward]
scorer = "command"
command = ["{python}", "{grader}"]
[rollout]
prompts_per_step = 2
samples_per_prompt = 3
max_tokens = 6
[optimizer]
learning_rate = 0.01
[train]
steps = 3
checkpoint_every = 1
[eval]
problems = 2
"""
ADAPTERS = {"tinylora": 'u = 13\nn_tie = "all"', "lora": 'kind = "lora"\nrank = 3', "full": 'kind = "full"'}
GRADER = """
import json, sys
for line in sys.stdin:
    text = json.loads(line)["completion"]
    print(json.dumps({"reward": sum(text.encode()) % 5}), flush=True)
"""


class Failed(AssertionError):
    """What the program says, or a number that is off."""


class Program:
    def __init__(self, binary, folder, products):
        self.binary, self.folder, self.products = binary, folder, products

    def run(self, *arguments, device="cuda", **variables):
        environment = {**os.environ, "TINYLORA_DEVICE": device, "TINYLORA_CACHE": str(self.folder / "cache"),
                       "TINYLORA_CUDA_PRODUCTS": self.products, **variables}
        done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise Failed(f"tinylora {' '.join(map(str, arguments))}: {done.stderr[-2000:]}")
        return done.stdout

    def score(self, model, device):
        texts = self.folder / "texts.jsonl"
        texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        out = self.run("score", "--model", model, "--text", texts, "--json", device=device)
        return [json.loads(line)["logprobs"][1:] for line in out.splitlines()]


def with_tokenizer(family, folder):
    """A tiny model as the program wants it: with a tokenizer of bytes."""
    model = folder / family
    model.mkdir()
    for file in (ROOT / "golden/models" / family).iterdir():
        if file.suffix in (".json", ".safetensors") and not file.name.startswith("golden"):
            shutil.copy(file, model)
    shutil.copy(ROOT / "golden/tokenizer/bytes.json", model / "tokenizer.json")
    (model / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return model


def parity(program, model):
    cpu, cuda, again = (program.score(model, device) for device in ("cpu", "cuda", "cuda"))
    if cuda != again:
        raise Failed("two runs on the GPU give different log-probs")
    off = max(abs(a - b) for one, other in zip(cpu, cuda) for a, b in zip(one, other))
    if not off <= MOST_OFF:
        raise Failed(f"a log-prob is off by {off:.3f}")
    return off


def recipe_of(model, folder, adapter):
    (folder / "grader.py").write_text(GRADER)
    recipe = folder / f"{adapter}.toml"
    settings = {"model": model, "grader": folder / "grader.py", "python": sys.executable, "adapter": ADAPTERS[adapter]}
    recipe.write_text(RECIPE.format(**settings))
    return recipe


def trained(out):
    """The bytes of the adapter, or of all weights."""
    adapter = out / "adapter.tinylora"
    files = [adapter] if adapter.exists() else sorted((out / "model").iterdir())
    return [file.read_bytes() for file in files]


def train(program, recipe, out, **variables):
    """What was trained, and the metrics but for times and memory."""
    program.run("train", recipe, "--out", out, **variables)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = lambda key: not key.endswith("seconds") and key != "rss_bytes"
    return trained(out), [{k: v for k, v in line.items() if kept(k)} for line in lines]


def graphs(program, model, folder):
    """Steps that are replayed as graphs give the bits of steps that are launched."""
    recipe = recipe_of(model, folder, "tinylora")
    runs = [train(program, recipe, folder / f"graphs-{value}", TINYLORA_CUDA_GRAPHS=value) for value in "01"]
    if runs[0] != runs[1]:
        raise Failed("a run with CUDA graphs differs from one without")


def two(program, model, folder):
    """Two GPUs end with the bytes of one."""
    recipe = recipe_of(model, folder, "tinylora")
    runs = [train(program, recipe, folder / f"gpus-{gpus}", TINYLORA_GPU=gpus)[0] for gpus in ("0", "0,1")]
    if runs[0] != runs[1]:
        raise Failed("a run on two GPUs differs from one on one")


def resume(program, model, folder, adapter):
    recipe, out = recipe_of(model, folder, adapter), folder / f"run-{adapter}"
    program.run("train", recipe, "--out", out)
    whole = trained(out)
    gaps = [json.loads(line)["logprob_gap_max"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    if any(gaps):
        raise Failed(f"sampling and training differ by {max(gaps)}")
    for checkpoint in sorted((out / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    program.run("train", recipe, "--out", out, "--resume")
    if trained(out) != whole:
        raise Failed("a resumed run ends otherwise")


def bench(program, result, shapes, more):
    """Speeds; decoding also without graphs."""
    for name in shapes:
        start = time.time()
        where = ["--random", name] if name in SHAPES else ["--model", name]
        rows = json.loads(program.run("bench", *where, "--json", *more))
        no_step = [] if "--no-step" in more else ["--no-step"]
        launched = json.loads(program.run("bench", *where, "--json", *more, *no_step, TINYLORA_CUDA_GRAPHS="0"))
        label = Path(name).name + (", wgmma" if program.products == "wgmma" else "")
        result["bench"][label] = rows
        result["bench"][f"{label}, without graphs"] = launched
        print(f"{label}: measured ({time.time() - start:.0f} s)", flush=True)


def peer(result):
    """PyTorch and transformers on the Qwen2.5-7B shape: 16 sequences of 160 tokens, forward and backward, and generation."""
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"no peer to compare with ({error})")
        return
    if not torch.cuda.is_available():
        print("no peer to compare with: PyTorch sees no GPU")
        return
    config = transformers.Qwen2Config(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, vocab_size=152064,
                                      num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.Qwen2ForCausalLM(config).eval()
    model.requires_grad_(False)
    tokens = torch.randint(0, 150000, (16, 160), device="cuda")

    def seconds(work):
        work()
        torch.cuda.synchronize()
        start = time.time()
        work()
        torch.cuda.synchronize()
        return time.time() - start

    def train():
        embedded = model.get_input_embeddings()(tokens).requires_grad_()
        model(inputs_embeds=embedded, labels=tokens).loss.backward()

    def generate():
        with torch.no_grad():
            model.generate(tokens[:, :64], max_new_tokens=64, min_new_tokens=64, do_sample=True)

    result["peer"] = {"torch": torch.__version__, "train_seconds": seconds(train), "generate_seconds": seconds(generate)}
    print(f"PyTorch: {result['peer']}", flush=True)


def check(binary, images, result, emulated, models, count, ways):
    """Everything; `models` are files of real models, `images` the folder of machine code, `count` the GPUs there are, `ways`
    the instructions that products can be on."""
    result |= {"engine": {}, "bench": {}}
    for products in ways:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            program = Program(binary, folder, products)
            if images.is_dir():
                shutil.copytree(images, folder / "cache/kernels")
            # The emulated driver's first two GPUs have no wgmma.
            pair = count > 1 and not (emulated and products == "wgmma")
            for name, one in engine_checks(program, folder, models, pair).items():
                name = name if products == "mma" else f"{name}, wgmma"
                try:
                    result["engine"][name] = {"agrees": True, "what": one()}
                except AssertionError as error:
                    result["engine"][name] = {"agrees": False, "what": str(error)}
                print(f"engine, {name}: {result['engine'][name]['what']}", flush=True)
            if emulated:
                few = ["--repeats", "1", "--decode", "2", "--sequences", "1", "--no-step"]
                bench(program, result, [str(folder / "llama2")], few)
            else:
                bench(program, result, SHAPES, ["--decode", "1", "--decode", "64", "--decode", "256"])
    if not emulated:
        peer(result)
    return all(one["agrees"] for one in result["engine"].values())


def engine_checks(program, folder, models, pair):
    """Name → what says how it agrees; `pair`: whether there are two GPUs."""
    checks = {family: (lambda f=family: f"log-probs off by {parity(program, with_tokenizer(f, folder)):.1e}")
              for family in FAMILIES}
    checks |= {model.name: (lambda m=model: f"log-probs off by {parity(program, m):.1e}") for model in models}
    checks |= {f"resume of {adapter}": (lambda a=adapter: resume(program, folder / "llama2", folder, a) or "the same bytes")
               for adapter in ADAPTERS}
    if pair:
        checks["two GPUs"] = lambda: two(program, folder / "llama2", folder) or "the same bytes as one"
    checks["graphs"] = lambda: graphs(program, folder / "llama2", folder) or "the same bits as without"
    return checks
