"""Adapters in and out on the real weights of SmolLM2-135M-Instruct: PEFT → tinylora → PEFT, tinylora → PEFT, and the merged
folder in transformers. Compares log-probs, numbers of the adapters bit for bit, and token ids; prints JSON.

    python golden/roundtrip.py TINYLORA SmolLM2-135M-Instruct.Q4_1.gguf ADAPTER.tinylora > golden/roundtrip.json

Needs about 3 GB of memory. TINYLORA is the program, ADAPTER one that was trained on these weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, TinyLoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reference import versions

TEXTS = (
    "Question: What is 14 + 9?\nAnswer: 14 + 9 = 23\n#### 23\nQuestion: What is 17 + 8?\nAnswer: 25",
    "The capital of France is Paris.  Two  spaces, 12345 digits, a\ttab and\r\nlines.",
    "Zürich, naïve café, 你好 世界, 🙂🙃, don't, I'LL, x=1;y+=2 <|im_start|>user\nhi<|im_end|>",
)
LIMIT = 1e-5  # for another order of summation; measure: max |difference| / max |log-prob|, as everywhere in golden/


def tinylora(program: str, *arguments, text: str | None = None) -> str:
    return subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, input=text, text=True).stdout


def scores(program: str, model: Path, rows: list, *more) -> list:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    out = tinylora(program, "score", "--model", model, "--dtype", "f32", "--text", "-", "--json", *more, text=lines)
    return [json.loads(line) for line in out.splitlines()]


def logprobs(model, ids: list) -> list:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    return torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def largest(ours: list, model) -> float:
    """The largest difference of log-probs, as a part of the largest log-prob."""
    theirs = [logprobs(model, row["tokens"]) for row in ours]
    pairs = [(a, b) for row, other in zip(ours, theirs) for a, b in zip(row["logprobs"][1:], other, strict=True)]
    return max(abs(a - b) for a, b in pairs) / max(abs(b) for _, b in pairs)


def load(folder: Path, **more):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more)
    return model.eval().requires_grad_(False)


def bits(tensors: dict) -> dict:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("program", "gguf", "adapter"):
        parser.add_argument(name)
    a = parser.parse_args()
    program, gguf, adapter = a.program, Path(a.gguf).resolve(), Path(a.adapter).resolve()
    rows = [{"text": text} for text in TEXTS]
    found = {"versions": versions(), "texts": len(TEXTS)}
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        plain = scores(program, gguf, rows)
        # Its factors are those of the matrices rounded to bf16, as in training; PEFT's folder holds them, so that f32 weights
        # can be used on both sides.
        out, back = place / "out", place / "back.tinylora"
        tinylora(program, "adapter", "export", adapter, "--model", gguf, "--format", "peft", "--out", out)
        tinylora(program, "adapter", "import", out, "--model", gguf, "--out", back)
        ours = scores(program, gguf, rows, "--adapter", back)
        base = load(gguf.parent, gguf_file=gguf.name)
        found["base"] = largest(plain, base)
        found["adapter_moves_logprobs"] = max(
            abs(x - y) for p, q in zip(plain, ours) for x, y in zip(p["logprobs"][1:], q["logprobs"][1:])
        )
        # tinylora → PEFT
        peft = PeftModel.from_pretrained(base, out).eval()
        found["to_peft"] = largest(ours, peft)
        base = peft.unload()
        v = load_file(out / "adapter_model.safetensors")["base_model.tinylora_v.0"]
        found["to_peft_v_bits"] = v.numpy().tobytes() in adapter.read_bytes()
        # PEFT → tinylora → PEFT
        torch.manual_seed(3)
        made = get_peft_model(
            base, TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        ).eval()
        for name, parameter in made.named_parameters():
            if "tinylora_v" in name:
                parameter.data.copy_(0.05 * torch.randn(parameter.shape))
        theirs, taken, again = place / "theirs", place / "taken.tinylora", place / "again"
        made.save_pretrained(theirs)
        tinylora(program, "adapter", "import", theirs, "--model", gguf, "--out", taken)
        tinylora(program, "adapter", "export", taken, "--model", gguf, "--format", "peft", "--out", again)
        imported = scores(program, gguf, rows, "--adapter", taken)
        found["from_peft"] = largest(imported, made)
        base = made.unload()
        found["from_peft_and_back"] = largest(imported, PeftModel.from_pretrained(base, again).eval())
        before, after = (load_file(folder / "adapter_model.safetensors") for folder in (theirs, again))
        found["from_peft_and_back_bits"] = bits(before) == bits(after)
        del base, made, peft
        # merged, as a folder
        for dtype in ("f32", "bf16"):
            folder = place / dtype
            tinylora(
                program, "adapter", "export", adapter, "--model", gguf, "--format", "merged", "--dtype", dtype, "--out", folder
            )
            model = load(folder)
            found[f"merged_{dtype}_in_transformers"] = largest(ours, model)
            found[f"merged_{dtype}_in_both"] = largest(scores(program, folder, rows), model)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found["token_ids"] = [tokenizer(text)["input_ids"] for text in TEXTS] == [row["tokens"] for row in ours]
        found["decoded"] = [tokenizer.decode(row["tokens"]) for row in ours] == list(TEXTS)
        chat = [{"role": "user", "content": "What is 7 + 5?"}, {"role": "assistant", "content": "12"}]
        wanted = scores(program, gguf, [{"messages": chat}])[0]["tokens"]
        given = tokenizer.apply_chat_template(chat, tokenize=False)
        found["chat_ids"] = tokenizer(given, add_special_tokens=False)["input_ids"] == wanted
    print(json.dumps(found, indent=2))
    exact = ["to_peft_v_bits", "from_peft_and_back_bits", "token_ids", "decoded", "chat_ids"]
    near = ["base", "to_peft", "from_peft", "from_peft_and_back", "merged_f32_in_transformers", "merged_f32_in_both", "merged_bf16_in_both"]
    wrong = [name for name in exact if not found[name]] + [name for name in near if found[name] > LIMIT]
    sys.exit(f"not as it should be: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
