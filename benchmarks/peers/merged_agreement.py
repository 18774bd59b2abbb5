"""Whether a merged GGUF file, or a base with GGUF-LoRA, gives the same greedy text in llama.cpp as here, token by token, and
why not where it doesn't.

    python benchmarks/peers/merged_agreement.py ADAPTER.tinylora MODEL.gguf DTYPE >> merged_agreement.jsonl

One line of JSON for one storage type (f32, bf16, f16 or q8_0) of merged weights, or for "lora", from comparisons of 32 prompts
with 32 tokens each:

- "same_numbers": llama.cpp on the file's numbers written out in f32, so that it computes in f32 as we do;
- "same_file": llama.cpp on the file itself, where it rounds activations to the type of the weights;
- "merging": our engine with base and adapter against our engine on the file: what the rounding of the weights changes.

With "lora" our engine has MODEL.gguf and the adapter, llama.cpp the same base, in f32 ("same_numbers") and as it is
("same_file"), with the adapter exported as GGUF-LoRA; nothing is merged.

llama.cpp is led along our text; a place counts where its best token is another one. Told for each: both log-probs of both
tokens. "error" is the difference of the log-probs of our tokens, over all places.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("TINYLORA", str(ROOT / "target" / "release" / "tinylora"))
TOKENS = 32
PROMPTS = (
    "Question: What is 14 + 9?\nAnswer: 14 + 9 = 23\n#### 23\nQuestion: What is 17 + 8?\nAnswer:",
    "What is the capital of France?", "Write a short poem about the sea.", "Explain why the sky is blue.",
    "What is 7 + 5?", "Add 19 and 23.", "Name three fruits.", "Who wrote Hamlet?", "What is photosynthesis?",
    "Translate 'good morning' into Spanish.", "List the planets of the solar system.", "How do bees make honey?",
    "Write a haiku about autumn.", "What is a prime number?", "Tell me a story about a fox.", "Why do leaves fall?",
    "What is the boiling point of water?", "Describe a sunset.", "How many legs has a spider?", "What is Rust?",
    "Give me a recipe for pancakes.", "What is the largest ocean?", "Explain gravity to a child.", "What is DNA?",
    "Write a letter to a friend.", "What is the opposite of hot?", "How does a clock work?", "Who was Marie Curie?",
    "What is 12 times 3?", "Complete: once upon a time", "What makes a good teacher?", "Summarise the water cycle.",
)  # fmt: skip


def tinylora(*arguments, text: str | None = None) -> str:
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, input=text, text=True).stdout


def lines(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def greedy(model: Path, *more) -> list:
    """Our greedy texts, with log-probs; weights in f32, which holds every storage type exactly."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write(lines([{"messages": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]))
        file.flush()
        out = tinylora(
            "generate", "--model", model, "--dtype", "f32", "--messages", file.name, "--max-tokens", TOKENS, "--json", *more
        )
    return [json.loads(line) for line in out.splitlines()]


def ours(model: Path, rows: list, *more) -> list:
    """Our log-prob of the last token of each row."""
    if not rows:
        return []
    text = lines([{"tokens": row} for row in rows])
    out = tinylora("score", "--model", model, "--dtype", "f32", "--text", "-", "--json", *more, text=text)
    return [json.loads(line)["logprobs"][-1] for line in out.splitlines()]


def as_f32(source: Path, target: Path) -> None:
    """The same numbers, every tensor in f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def theirs(model: Path, lora: Path | None, texts: list) -> list:
    """For each text, llama.cpp's log-probs at each of its places, where it is led along our tokens; keys and values in f32."""
    options = {"n_ctx": 512, "type_k": 0, "type_v": 0, "n_threads": 2, "verbose": False}
    llama = llama_cpp.Llama(model_path=str(model), lora_path=lora and str(lora), **options)
    found = []
    for text in texts:
        llama.reset()
        places = []
        for step in [text["prompt_tokens"], *([token] for token in text["tokens"][:-1])]:
            llama.eval(step)
            logits = llama_cpp.llama_get_logits_ith(llama._ctx.ctx, -1)
            places.append(log_softmax(np.ctypeslib.as_array(logits, shape=(llama.n_vocab(),)).copy()))
        found.append(places)
    return found


def against_llama(model: Path, file: Path, texts: list, adapter: list = (), lora: Path | None = None) -> dict:
    """`file` (with `lora`) in llama.cpp against our `texts`, which are those of `model` (with `adapter`)."""
    errors, places = [], []
    for number, (text, found) in enumerate(zip(texts, theirs(file, lora, texts))):
        for at, (token, logprob, all_of) in enumerate(zip(text["tokens"], text["logprobs"], found, strict=True)):
            errors.append(abs(logprob - all_of[token]))
            best = int(all_of.argmax())
            if best != token:
                before = text["prompt_tokens"] + text["tokens"][:at]
                places.append((number, at, token, best, logprob, all_of[token], all_of[best], before + [best]))
    other = ours(model, [place[-1] for place in places], *adapter)
    listed = [
        {
            "prompt": number, "place": at, "our_token": token, "their_token": best,
            "ours": [logprob, second], "theirs": [float(first), float(their)],
            "our_gap": logprob - second, "their_gap": float(their - first),
        }
        for (number, at, token, best, logprob, first, their, _), second in zip(places, other)
    ]  # fmt: skip
    return {
        "tokens": len(errors), "prompts_that_agree": len(texts) - len({place[0] for place in places}),
        "error_largest": float(max(errors)), "error_rms": float(np.sqrt(np.mean(np.square(errors)))),
        "other_best_token": listed,
    }  # fmt: skip


def against_base(base: Path, adapter: Path, merged: Path, texts: list) -> dict:
    """Base and adapter against the merged file, both here: the first place of each prompt where the texts part ways."""
    adapted = greedy(base, "--adapter", adapter)
    rows, heads = [], []
    for number, (a, b) in enumerate(zip(adapted, texts)):
        pairs = zip(a["tokens"], b["tokens"])
        at = next((at for at, (x, y) in enumerate(pairs) if x != y), None)
        if at is not None:
            before = a["prompt_tokens"] + a["tokens"][:at]
            rows += [before + [a["tokens"][at]], before + [b["tokens"][at]]]
            heads.append({"prompt": number, "place": at, "adapter_token": a["tokens"][at], "merged_token": b["tokens"][at]})
    by_adapter, by_merged = ours(base, rows, "--adapter", adapter), ours(merged, rows)
    for index, head in enumerate(heads):
        with_adapter, in_merged = (found[2 * index : 2 * index + 2] for found in (by_adapter, by_merged))
        head |= {"adapter": with_adapter, "merged": in_merged}
        head |= {"adapter_gap": with_adapter[0] - with_adapter[1], "merged_gap": in_merged[1] - in_merged[0]}
    errors = [abs(x - y) for x, y in zip(led(base, texts, "--adapter", adapter), led(merged, texts))]
    return {
        "prompts_that_agree": len(texts) - len(heads), "error_largest": max(errors),
        "error_rms": float(np.sqrt(np.mean(np.square(errors)))), "parts_ways": heads,
    }  # fmt: skip


def led(model: Path, texts: list, *more) -> list:
    """Our log-probs of the texts' tokens."""
    rows = lines([{"tokens": text["prompt_tokens"] + text["tokens"]} for text in texts])
    out = tinylora("score", "--model", model, "--dtype", "f32", "--text", "-", "--json", *more, text=rows)
    parts = zip(texts, (json.loads(line)["logprobs"] for line in out.splitlines()))
    return [x for text, logprobs in parts for x in logprobs[len(text["prompt_tokens"]) :]]


def merged(adapter: Path, model: Path, dtype: str, place: Path) -> dict:
    file, numbers = place / "merged.gguf", place / "numbers.gguf"
    tinylora("adapter", "export", adapter, "--model", model, "--format", "merged", "--dtype", dtype, "--out", file)
    texts = greedy(file)
    as_f32(file, numbers)
    return {
        "same_numbers": against_llama(file, numbers, texts),
        "same_file": against_llama(file, file, texts),
        "merging": against_base(model, carried(adapter, model, place), file, texts),
    }  # fmt: skip


def with_lora(adapter: Path, model: Path, place: Path) -> dict:
    lora, numbers = place / "lora.gguf", place / "numbers.gguf"
    tinylora("adapter", "export", adapter, "--model", model, "--format", "gguf-lora", "--out", lora)
    ours = ["--adapter", carried(adapter, model, place)]
    texts = greedy(model, *ours)
    as_f32(model, numbers)
    return {
        "adapter_changes": sum(a["tokens"] != b["tokens"] for a, b in zip(texts, greedy(model))),
        "same_numbers": against_llama(model, numbers, texts, ours, lora),
        "same_file": against_llama(model, model, texts, ours, lora),
    }  # fmt: skip


def carried(adapter: Path, model: Path, place: Path) -> Path:
    """The adapter with its factors in the file, so that it can be used on weights in f32, as the others are."""
    peft, file = place / "peft", place / "carried.tinylora"
    tinylora("adapter", "export", adapter, "--model", model, "--format", "peft", "--out", peft)
    tinylora("adapter", "import", peft, "--model", model, "--out", file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("dtype", choices=("f32", "bf16", "f16", "q8_0", "lora"))
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        lora = a.dtype == "lora"
        found = with_lora(a.adapter, a.model, place) if lora else merged(a.adapter, a.model, a.dtype, place)
    print(json.dumps({"dtype": a.dtype, "prompts": len(PROMPTS), "llama_cpp_python": llama_cpp.__version__} | found))


if __name__ == "__main__":
    main()
