"""Whether llama.cpp writes the same greedy text with an adapter that tinylora exported: as GGUF-LoRA and merged.

    python benchmarks/peers/llama_agreement.py ADAPTER.tinylora BASE.bf16.gguf

BASE is the same model in bf16, as peer_llama.py leaves it in target/peers. Prints, for each prompt, how many of the first
tokens agree.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from llama_cpp import Llama

TINYLORA = Path(__file__).resolve().parents[2] / "target" / "release" / "tinylora"
MODEL, TOKENS = "smollm2-135m", 32
PROMPTS = (
    "Question: What is 14 + 9?\nAnswer: 14 + 9 = 23\n#### 23\nQuestion: What is 17 + 8?\nAnswer:",
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue.",
)


def tinylora(*arguments) -> str:
    return subprocess.run([TINYLORA, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def ours(prompt: str, adapter: list) -> dict:
    return json.loads(
        tinylora("generate", "--model", MODEL, *adapter, "--prompt", prompt, "--max-tokens", str(TOKENS), "--json")
    )


def theirs(model: Path, lora: Path | None, prompts: list) -> list:
    llama = Llama(model_path=str(model), lora_path=lora and str(lora), n_ctx=512, verbose=False)
    found = []
    for prompt in prompts:
        llama.reset()
        tokens = []
        for token in llama.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == TOKENS or token == llama.token_eos():
                break
        found.append(tokens)
    return found


def agreement(a: list, b: list) -> str:
    length = min(len(a), len(b))
    same = next((i for i in range(length) if a[i] != b[i]), length)
    return f"{same}/{length}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("base", type=Path)
    arguments = parser.parse_args()
    alone = [ours(prompt, []) for prompt in PROMPTS]
    adapted = [ours(prompt, ["--adapter", arguments.adapter]) for prompt in PROMPTS]
    prompts = [found["prompt_tokens"] for found in adapted]
    print("the adapter changes the text:", [a["tokens"] != b["tokens"] for a, b in zip(alone, adapted)])
    with tempfile.TemporaryDirectory() as folder:
        lora, merged = Path(folder) / "lora.gguf", Path(folder) / "merged.gguf"
        export = ("adapter", "export", arguments.adapter, "--model", MODEL, "--format")
        tinylora(*export, "gguf-lora", "--out", lora)
        tinylora(*export, "merged", "--dtype", "bf16", "--out", merged)
        for name, wanted, found in (
            ("base alone", alone, theirs(arguments.base, None, prompts)),
            ("base with GGUF-LoRA", adapted, theirs(arguments.base, lora, prompts)),
            ("merged in bf16", adapted, theirs(merged, None, prompts)),
        ):
            print(f"{name}:", [agreement(a["tokens"], b) for a, b in zip(wanted, found)])


if __name__ == "__main__":
    main()
