"""Golden tensors of two real models: SmolLM2-135M-Instruct with a fully tied adapter of 13 numbers, and the
Gemma 3 270M base model without one.

In: the models' GGUF files (Q4_1 and Q4_K_M), which transformers dequantises to f32. Out: `smollm2/golden.safetensors`,
`smollm2/golden_bf16.safetensors` (the same with matrices rounded to bf16, computed with in f32) and
`gemma3-270m/golden.safetensors`, each with its .json. README.md lists every tensor.
Never: weights or singular vectors in the output (an engine computes its own), or PEFT: the adapter here has this
project's convention, B = UΣ, A = Vᵀ, the largest component of each u positive, ΔW = B (Σ_i v_i P_i) A.

    python golden/make_real.py --smollm2 FILE.gguf --gemma3 FILE.gguf            writes (either may be left out)
    python golden/make_real.py --smollm2 FILE.gguf --gemma3 FILE.gguf --check    recomputes and compares
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from reference import (
    TEMPERATURE, Adapter, Batch, adapter_quantities, compare_golden, everything_in_f64, f32_errors, next_logprobs, relative_error,
    write_golden,
)

HERE = Path(__file__).parent
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, U, V_DEVIATION = 2, 13, 0.02
LEARNING_RATE = 2e-3  # of the curves; at 1e-2 they grow rounding errors of f32 to 5e-4 in ten steps
SEEDS = {"P": 71, "v": 72, "old_logprobs": 73}
TOP = 64  # logits kept at each of these positions, counted from the end of the prompt
OFFSETS = (-20, -1, 0, 1, 3, 7)
# Of what is computed in f64 and rounded: as good as products with W in f32 can be; a vector's error is that over the
# gap to the next singular value, of which the least is 0.15 %.
SVD_ERRORS = {"singular_values": 6e-7, "u_start": 6e-6, "vt_start": 6e-6}
EXAMPLE = "Q: What is 3 + 5 + 1?\nA: 3 + 5 + 1 = 9\n#### 9\n\nQ: What is {}?\nA:"
CHATS = (  # question, completion, advantage; sequences 0 and 1 share a prompt
    ("4 + 7 + 2", " 4 + 7 + 2 = 13\n#### 13<|im_end|>\n", 1.2),
    ("4 + 7 + 2", " 4 + 7 + 2 = 11 + 2 = 12. So the answer is 12.\n#### 12<|im_end|>\n", -0.8),
    ("9 + 9 + 6", " First, 9 + 9 = 18. Then 18 + 6 = 24.\n#### 24<|im_end|>\n", 0.7),
    ("1 + 8 + 5", " 14\n#### 15<|im_end|>\n", -1.1),
)
TEXTS = (
    "The capital of France is Paris. 2 + 3 = 5, and 12 + 30 = 42.",
    "def add(a, b):\n    return a + b\n\nA train leaves the station at 9:15 and arrives at 11:40. The journey takes two "
    "hours and twenty-five minutes. In the evening the same train goes back, but it stops once more on the way and "
    "needs ten minutes longer. Wenn es regnet, bleibt der Zug manchmal stehen; dann warten alle.",
    "Once upon a time there was a farmer who counted everything. "
    + " ".join(
        f"On day {day} he counted {day * 7 % 31} sheep, {day * 5 % 17} cows and {day * 3 % 11} hens, "
        f"and wrote {day * 7 % 31 + day * 5 % 17 + day * 3 % 11} in his book."
        for day in range(1, 20)
    ),
)


def load_gguf(file: Path) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    check_weights(model, file)
    return model.eval().requires_grad_(False)


def check_weights(model: torch.nn.Module, file: Path) -> None:
    """Every tensor of the model against the file's, dequantised by the gguf package, bit for bit."""
    short = {
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm", "token_embd": "embed_tokens", "output_norm": "norm",
    }
    gemma = model.config.model_type.startswith("gemma")
    short["ffn_norm"] = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
    weights, seen = model.state_dict(), {"lm_head.weight"}  # the head is the embedding
    for tensor in GGUFReader(file).tensors:
        *block, kind, _ = tensor.name.split(".")
        name = "model." + (f"layers.{block[1]}." if block else "") + short[kind] + ".weight"
        wanted = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if gemma and kind.endswith("norm"):
            wanted = wanted - 1.0  # these files hold 1 + w
        if not gemma and kind in ("attn_q", "attn_k"):
            wanted = halves_from_neighbours(wanted, model.config.head_dim)
        assert torch.equal(weights[name], wanted.reshape(weights[name].shape)), name
        seen.add(name)
    assert seen == weights.keys(), seen ^ weights.keys()


def halves_from_neighbours(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """GGUF's llama files rotate neighbouring rows (2i, 2i + 1); transformers rotates rows i and i + head_dim / 2."""
    heads = rows.view(-1, head_dim, rows.shape[1])
    return torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1).reshape(rows.shape)


def round_matrices(model: torch.nn.Module) -> None:
    """All matrices, the embedding included, to the nearest bf16; norms stay as they are."""
    for weight in {id(p): p for p in model.parameters()}.values():
        if weight.dim() == 2:
            weight.data.copy_(weight.data.bfloat16().float())


def to_f64(model: torch.nn.Module) -> torch.nn.Module:
    """In place; rope tables computed anew in f64. Call inside everything_in_f64."""
    model.double()
    model.model.rotary_emb.__init__(model.config)
    return model


def target_modules(model: torch.nn.Module) -> list[tuple[str, torch.nn.Linear]]:
    """Depth order: layer 0's q, k, v, o, gate, up, down, then layer 1's."""
    return [(name, layer) for name, layer in model.named_modules() if name.endswith(TARGETS)]


def truncated_svd(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (out, r), all singular values, Vᵀ (r, in) in f64; each u's largest component is positive."""
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    u, vt = u[:, :RANK], vt[:RANK]
    signs = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
    return u * signs, s, vt * signs.T


def attach(model: torch.nn.Module, factors: list, projections: torch.Tensor, v: torch.Tensor) -> tuple[Adapter, list]:
    """Adds x Aᵀ Rᵀ Bᵀ to every target's output. Returns the adapter and the hooks' handles."""
    adapter = Adapter([v.requires_grad_(True)], len(factors), [])
    dtype = v.dtype

    def side_path(module: int, u, s, vt):
        b, a, p = (u * s[:RANK]).to(dtype), vt.to(dtype), projections[module].to(dtype)

        def add(_, arguments, out):
            r = torch.einsum("i,ijk->jk", v, p)
            adapter.trace.append((module, r))
            return out + arguments[0] @ a.T @ r.T @ b.T

        return add

    layers = [layer for _, layer in target_modules(model)]
    return adapter, [layer.register_forward_hook(side_path(i, *factors[i])) for i, layer in enumerate(layers)]


def chat_batch(tokenizer) -> Batch:
    generator = torch.Generator().manual_seed(SEEDS["old_logprobs"])
    tokens, lengths, noise = [], [], []
    for question, completion, _ in CHATS:
        message = [{"role": "user", "content": EXAMPLE.format(question)}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion)]
        tokens.append(torch.tensor(ids[0] + ids[1]))
        lengths.append(len(ids[0]))
        noise.append(0.3 * torch.randn(len(ids[1]), generator=generator))
    return Batch(tokens, lengths, torch.tensor([advantage for _, _, advantage in CHATS]), noise)


def quantities(model, factors: list, projections, v, batch: Batch, old: list | None) -> dict:
    """Base and adapted model, with whole logits. Leaves the model as it was."""
    forward = lambda tokens: model(tokens[None], use_cache=False).logits[0]
    out = {}
    with torch.no_grad():
        for s, tokens in enumerate(batch.tokens):
            out[f"logits.base.{s}"] = logits = forward(tokens)
            out[f"logprobs.base.{s}"] = next_logprobs(logits, tokens).float()
            out[f"logprobs.base_tempered.{s}"] = next_logprobs(logits, tokens, TEMPERATURE).float()
    base = [out[f"logprobs.base.{s}"] for s in range(len(batch.tokens))]
    adapter, handles = attach(model, factors, projections, v)
    out.update(adapter_quantities(forward, adapter, batch, base, old, LEARNING_RATE))
    for handle in handles:
        handle.remove()
    return out


def keep_top(found: dict, positions: list[torch.Tensor], ids: dict | None) -> tuple[dict, dict]:
    """Replaces whole logits by the largest at some positions. `ids`: which ones, or None to choose. Also returns ids."""
    out, chosen = {}, {}
    for name, value in found.items():
        if not name.startswith("logits."):
            out[name] = value
            continue
        kind, s = name.split(".")[1:]
        rows = value[positions[int(s)]]
        key = f"top_ids.{kind}.{s}"
        chosen[key] = ids[key].long() if ids else rows.topk(TOP).indices
        out[f"top_logits.{kind}.{s}"] = rows.gather(1, chosen[key])
        out[f"logsumexp.{kind}.{s}"] = torch.logsumexp(rows.double(), dim=1).float()
    return out, {key: value.to(torch.int32) for key, value in chosen.items()}


def planted_costs(model, factors: list, projections, v, batch: Batch, wanted: torch.Tensor) -> dict:
    """Mistakes in the adapter → relative error of sequence 0's logits."""
    flipped = [(u * torch.tensor([-1.0, 1.0]).double(), s, vt * torch.tensor([[-1.0], [1.0]]).double()) for u, s, vt in factors]
    mistakes = {
        "signs of the first singular vectors": (flipped, projections),
        "singular values left out": ([(u, torch.ones_like(s), vt) for u, s, vt in factors], projections),
        "square roots of singular values": ([(u, s.sqrt(), vt) for u, s, vt in factors], projections),
        "R transposed": (factors, projections.transpose(2, 3)),
        "P of the next module": (factors, projections.roll(-1, dims=0)),
        "order of P's first two": (factors, projections[:, [1, 0, *range(2, U)]]),
    }
    costs = {}
    for mistake, (wrong_factors, wrong_projections) in mistakes.items():
        _, handles = attach(model, wrong_factors, wrong_projections, v.clone())
        with torch.no_grad():
            logits = model(batch.tokens[0][None], use_cache=False).logits[0]
        costs[mistake] = float(f"{relative_error(logits, wanted):.2g}")
        for handle in handles:
            handle.remove()
        assert costs[mistake] > 1e-3, (mistake, costs[mistake])
    return costs


def gaps(factors: list, names: list[str]) -> dict:
    """How near the kept singular values come to each other and to the first one left out."""
    out = {}
    for key, i in (("sigma2/sigma1", 1), ("sigma3/sigma2", 2)):
        ratios = torch.stack([s[i] / s[i - 1] for _, s, _ in factors])
        nearest = ratios.topk(5)
        out[key] = {
            "median": round(ratios.median().item(), 4),
            "above 0.99": int((ratios > 0.99).sum()),
            "nearest": {names[j]: round(ratio, 6) for ratio, j in zip(nearest.values.tolist(), nearest.indices.tolist())},
        }
    return out


def make_smollm2(file: Path, folder: Path, bf16: bool) -> Path:
    """Writes golden.safetensors, or golden_bf16.safetensors with the f32 errors that golden.json says."""
    model = load_gguf(file)
    if bf16:
        round_matrices(model)
    batch = chat_batch(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name))
    names, layers = zip(*target_modules(model))
    factors = [truncated_svd(layer.weight.data) for layer in layers]
    generator = {key: torch.Generator().manual_seed(seed) for key, seed in SEEDS.items()}
    projections = torch.randn(len(names), U, RANK, RANK, generator=generator["P"]) / RANK**0.5
    v = V_DEVIATION * torch.randn(U, generator=generator["v"])
    positions = [torch.tensor([length + offset for offset in OFFSETS]) for length in batch.prompt_lengths]

    progress("singular values")

    whole = quantities(model, factors, projections, v.clone(), batch, None)
    progress("f32")
    costs = planted_costs(model, factors, projections, v, batch, whole["logits.adapter.0"])
    tensors, ids = keep_top(whole, positions, None)
    tensors.update(factor_samples(factors))
    if bf16:  # as sensitive as the other one, so f64 is not asked again
        notes = json.loads((folder / "golden.json").read_text())["tensors"]
        errors = {name: note["f32_error"] for name, note in notes.items() if "f32_error" in note}
    else:
        old = [tensors[f"old_logprobs.{s}"].double() for s in range(len(batch.tokens))]
        with everything_in_f64():
            exact = quantities(to_f64(model), factors, projections, v.double(), batch, old)
        exact, _ = keep_top(exact, positions, ids)
        exact = {name: value for name, value in exact.items() if not name.startswith("old_logprobs")}  # inputs
        errors = f32_errors(tensors, exact)
        progress("f64")
    errors.update(SVD_ERRORS)
    tensors.update(ids)
    for s, tokens in enumerate(batch.tokens):
        tensors[f"tokens.{s}"] = tokens.to(torch.int32)
        tensors[f"positions.{s}"] = positions[s].to(torch.int32)
    tensors.update(prompt_lengths=torch.tensor(batch.prompt_lengths, dtype=torch.int32), advantages=batch.advantages)
    tensors.update(v=v[None], P=projections)
    settings = {
        "model": "SmolLM2-135M-Instruct, Q4_1" + (", matrices rounded to bf16" if bf16 else ""),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "adapter": {"r": RANK, "u": U, "groups": 1, "v_deviation": V_DEVIATION},
        "learning_rate": LEARNING_RATE,
        "seeds": SEEDS,
        "singular_value_gaps": gaps(factors, names),
        "planted_errors": costs,
        "modules": names,
    }
    path = folder / ("golden_bf16.safetensors" if bf16 else "golden.safetensors")
    write_golden(path, tensors, errors, settings)
    return path


def factor_samples(factors: list) -> dict:
    """Four singular values and the first four components of each kept vector."""
    return {
        "singular_values": torch.stack([s[:4] for _, s, _ in factors]).float(),  # (N, 4)
        "u_start": torch.stack([u[:4].T for u, _, _ in factors]).float(),  # (N, r, 4)
        "vt_start": torch.stack([vt[:, :4] for _, _, vt in factors]).float(),  # (N, r, 4)
    }


def progress(done: str) -> None:
    print(f"{time.process_time():6.0f} s of processor time: {done} done", flush=True)


def text_quantities(model: torch.nn.Module, texts: list[torch.Tensor], positions: list[torch.Tensor]) -> dict:
    """All next-token log-probs, and the logits of some positions; the vocabulary is large, so piece by piece."""
    out = {}
    for s, tokens in enumerate(texts):
        with torch.no_grad():
            hidden = model.model(tokens[None], use_cache=False).last_hidden_state[0]
            pieces = []
            for start in range(0, len(tokens) - 1, 64):
                end = min(start + 65, len(tokens))  # the next piece's first token is this one's last target
                pieces.append(next_logprobs(model.lm_head(hidden[start:end]), tokens[start:end]))
            out[f"logprobs.base.{s}"] = torch.cat(pieces).float()
            out[f"logits.base.{s}"] = model.lm_head(hidden[positions[s]])
    return out


def make_gemma3(file: Path, folder: Path) -> Path:
    model = load_gguf(file)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    texts = [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert len(texts[2]) > model.config.sliding_window + 20, "the last text must be longer than the window"
    positions = [torch.tensor([0, len(tokens) // 2, len(tokens) - 2, len(tokens) - 1]) for tokens in texts]
    rows = [torch.arange(4)] * len(texts)  # text_quantities has chosen the positions already
    tensors, ids = keep_top(text_quantities(model, texts, positions), rows, None)
    with everything_in_f64():
        exact = text_quantities(to_f64(model), texts, positions)
    errors = f32_errors(tensors, keep_top(exact, rows, ids)[0])
    tensors.update(ids)
    for s, tokens in enumerate(texts):
        tensors[f"tokens.{s}"] = tokens.to(torch.int32)
        tensors[f"positions.{s}"] = positions[s].to(torch.int32)
    settings = {"model": "Gemma 3 270M base, Q4_K_M", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    path = folder / "golden.safetensors"
    write_golden(path, tensors, errors, settings)
    return path


def keep_or_compare(fresh: Path, scratch: Path, check: bool) -> list[str]:
    """Copies a new golden file and its notes to their place, or says how the stored one differs."""
    stored = HERE / fresh.relative_to(scratch)
    if check:
        return compare_golden(stored, fresh)
    stored.parent.mkdir(exist_ok=True)
    for suffix in (".safetensors", ".json"):
        shutil.copyfile(fresh.with_suffix(suffix), stored.with_suffix(suffix))
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--gemma3", type=Path, help="Gemma 3 270M base, Q4_K_M, .gguf")
    parser.add_argument("--check", action="store_true", help="compare with the stored files, write nothing")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # one order of summation on every machine
    complaints = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for folder in ("smollm2", "gemma3-270m"):
            (scratch / folder).mkdir()
        if arguments.smollm2:
            for bf16 in (False, True):
                fresh = make_smollm2(arguments.smollm2, scratch / "smollm2", bf16)
                complaints += keep_or_compare(fresh, scratch, arguments.check)
        if arguments.gemma3:
            fresh = make_gemma3(arguments.gemma3, scratch / "gemma3-270m")
            complaints += keep_or_compare(fresh, scratch, arguments.check)
    if arguments.check:
        print("\n".join(complaints) or "as stored")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
