"""Golden tensors of the tiny models: what transformers and PEFT's TinyLoRA compute with them in f32.

In: `models/NAME` (make_models.py). Out: `models/NAME/golden.safetensors` with tokens, logits, log-probs, losses,
gradients and loss curves, `golden.json` with versions, settings, tolerances and what planted errors would cost,
and `models/NAME/adapter/`, the adapter as PEFT saves it. README.md lists every tensor.
Never: padding, dropout, or a fused attention kernel.

    python golden/make_goldens.py [NAME …]    writes
    python golden/make_goldens.py --check     recomputes and compares with what is stored
"""

import argparse
import copy
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftModel, TinyLoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import planted
from make_models import CONFIGS, MODELS
from reference import (
    TEMPERATURE, Adapter, Batch, adapter_quantities, compare_golden, everything_in_f64, f32_errors, next_logprobs, relative_error,
    write_golden,
)

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# r, u, PEFT's weight_tying, deviation of v. 21 modules in 4 groups are 5 + 5 + 5 + 6; 1.0 ties all, 0.0 none.
ADAPTERS = {
    "llama2": (2, 5, 0.8, 0.1),
    "llama2-bf16": (2, 5, 0.8, 0.1),
    "llama2-tied": (3, 4, 0.8, 0.1),
    "llama3": (2, 5, 1.0, 0.15),
    "mistral": (1, 2, 0.8, 0.2),
    "qwen2": (2, 5, 0.0, 0.1),
    "qwen3": (2, 5, 0.85, 0.15),
    "gemma3": (2, 5, 0.9, 0.15),
}
PROJECTION_SEED = 42
LEARNING_RATE = 1e-2
PROMPTS = (9, 13)  # tokens; sequences 0 and 1 share the first, 2 and 3 the second
COMPLETIONS = (14, 10, 24, 17)
ADVANTAGES = (0.9, -0.6, -1.3, 0.4)


def make_batch(vocabulary: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(vocabulary, (n,), generator=generator)
    prompts = [draw(n) for n in PROMPTS]
    tokens = [torch.cat([prompts[s // 2], draw(n)]) for s, n in enumerate(COMPLETIONS)]
    noise = [0.3 * torch.randn(n, generator=generator) for n in COMPLETIONS]
    return Batch(tokens, [PROMPTS[s // 2] for s in range(4)], torch.tensor(ADVANTAGES), noise)


def load_base(name: str) -> torch.nn.Module:
    """The model in f32 (bf16 files: the rounded weights, computed with in f32)."""
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def add_adapter(model: torch.nn.Module, name: str, seed: int) -> PeftModel:
    """PEFT's TinyLoRA on all seven kinds of module, v normal."""
    r, u, tying, deviation = ADAPTERS[name]
    config = TinyLoraConfig(
        r=r, u=u, weight_tying=tying, projection_seed=PROJECTION_SEED, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    peft = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(seed)
    for v in group_vectors(peft):
        v.data.copy_(deviation * torch.randn(v.shape, generator=generator))
    return peft


def group_vectors(peft: PeftModel) -> list[torch.Tensor]:
    vectors = peft.base_model.tinylora_v["default"]
    return [vectors[str(group)] for group in range(len(vectors))]


def adapted_modules(peft: PeftModel) -> list[tuple[str, torch.nn.Module]]:
    """(name in the model without PEFT, layer), in PEFT's order: layer 0's q, k, v, o, gate, up, down, layer 1's …"""
    found = [(key, layer) for key, layer in peft.named_modules() if hasattr(layer, "_tinylora_v_key")]
    return [(key.removeprefix("base_model.model."), layer) for key, layer in found]


def trace_adapter(peft: PeftModel) -> Adapter:
    """Makes every layer note the R it computes, so that dR can be asked for."""
    layers = [layer for _, layer in adapted_modules(peft)]
    adapter = Adapter(group_vectors(peft), len(layers), [])

    def traced(module: int, compute):
        def compute_and_note(adapter_name):
            r = compute(adapter_name)
            adapter.trace.append((module, r))
            return r

        return compute_and_note

    for module, layer in enumerate(layers):
        layer._compute_R = traced(module, type(layer)._compute_R.__get__(layer))
    return adapter


def to_f64(peft: PeftModel) -> PeftModel:
    """The same weights, factors and v in f64, rope tables computed anew in f64. Call inside everything_in_f64."""
    exact = copy.deepcopy(peft).double()
    for _, layer in adapted_modules(exact):
        layer.__dict__.pop("_compute_R", None)
    rotary = exact.base_model.model.model.rotary_emb
    rotary.__init__(rotary.config)
    return exact


def base_quantities(model: torch.nn.Module, batch: Batch) -> dict:
    out = {}
    with torch.no_grad():
        for s, tokens in enumerate(batch.tokens):
            result = model(tokens[None], output_hidden_states=s == 0, use_cache=False)
            if s == 0:
                out["hidden.base.0"] = torch.stack([hidden[0] for hidden in result.hidden_states])
            out[f"logits.base.{s}"] = result.logits[0]
            out[f"logprobs.base.{s}"] = next_logprobs(result.logits[0], tokens).float()
            out[f"logprobs.base_tempered.{s}"] = next_logprobs(result.logits[0], tokens, TEMPERATURE).float()
    return out


def all_quantities(peft: PeftModel, batch: Batch, old: list | None) -> dict:
    adapter = trace_adapter(peft)
    with peft.disable_adapter():
        out = base_quantities(peft.base_model.model, batch)
    # disable_adapter switches the gradient of v off and on again; nothing else of the model is trained
    for v in adapter.v:
        v.requires_grad_(True)
    base = [out[f"logprobs.base.{s}"] for s in range(len(batch.tokens))]
    forward = lambda tokens: peft(input_ids=tokens[None], use_cache=False).logits[0]
    out.update(adapter_quantities(forward, adapter, batch, base, old, LEARNING_RATE))
    return out


def check_chain_rule(peft: PeftModel, tensors: dict) -> None:
    """dv must be the sum over a group's modules of ⟨P_i, dR⟩: what PEFT's autograd says of its own parts."""
    layers = [layer for _, layer in adapted_modules(peft)]
    for name in ("nll", "grpo"):
        again = torch.zeros_like(tensors[f"dv.{name}"])
        for layer, dr in zip(layers, tensors[f"dR.{name}"]):
            again[int(layer._tinylora_v_key["default"])] += torch.einsum("ijk,jk->i", layer.tinylora_P["default"], dr)
        assert relative_error(again, tensors[f"dv.{name}"]) < 1e-5, name


def inputs(peft: PeftModel, batch: Batch) -> dict:
    layers = [layer for _, layer in adapted_modules(peft)]
    out = {f"tokens.{s}": tokens.to(torch.int32) for s, tokens in enumerate(batch.tokens)}
    out["prompt_lengths"] = torch.tensor(batch.prompt_lengths, dtype=torch.int32)
    out["advantages"] = batch.advantages
    out["v"] = torch.stack([v.detach() for v in group_vectors(peft)])
    out["group_of_module"] = torch.tensor([int(layer._tinylora_v_key["default"]) for layer in layers], dtype=torch.int32)
    return out


def save_adapter(peft: PeftModel, folder: Path, batch: Batch, name: str, logits: torch.Tensor) -> None:
    """The adapter's two files as PEFT writes them; loaded again they must give the same logits."""
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = name
    config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    again = PeftModel.from_pretrained(load_base(name), folder).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=batch.tokens[0][None]).logits[0], logits), "the saved adapter differs"


def make_golden(name: str, folder: Path) -> dict:
    """Writes one model's golden files into `folder`; returns the costs of the planted errors."""
    torch.manual_seed(0)
    number = list(CONFIGS).index(name.removesuffix("-bf16"))
    batch = make_batch(CONFIGS[name]["vocab_size"], 2000 + number)
    peft = add_adapter(load_base(name), name, 3000 + number)
    tensors = all_quantities(peft, batch, None)
    check_chain_rule(peft, tensors)
    old = [tensors[f"old_logprobs.{s}"] for s in range(len(batch.tokens))]
    with everything_in_f64():
        exact = all_quantities(to_f64(peft), batch, [value.double() for value in old])
    for s in range(len(batch.tokens)):
        del exact[f"old_logprobs.{s}"]  # an input of the clipped loss
    errors = f32_errors(tensors, exact)
    tensors.update(inputs(peft, batch))
    save_adapter(peft, folder / "adapter", batch, name, tensors["logits.adapter.0"])
    costs = planted.costs(name, peft, batch, tensors, errors)
    r, u, tying, deviation = ADAPTERS[name]
    settings = {
        "model": name,
        "adapter": {"r": r, "u": u, "weight_tying": tying, "projection_seed": PROJECTION_SEED, "v_deviation": deviation},
        "learning_rate": LEARNING_RATE,
        "seeds": {"tokens": 2000 + number, "v": 3000 + number},
        "modules": [key for key, _ in adapted_modules(peft)],
        "planted_errors": costs,
    }
    write_golden(folder / "golden.safetensors", tensors, errors, settings)
    return costs


def report(name: str, folder: Path, costs: dict) -> None:
    notes = json.loads((folder / "golden.json").read_text())["tensors"]
    worst = max((note.get("f32_error", 0.0), key) for key, note in notes.items())
    least = min(costs.items(), key=lambda item: item[1])
    print(f"{name}: worst f32 error {worst[0]:.1e} ({worst[1]}); least planted error {least[1]:.1e} ({least[0]})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models, default: all")
    parser.add_argument("--check", action="store_true", help="compare with the stored files, write nothing")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # one order of summation on every machine
    complaints = []
    for name in arguments.names or CONFIGS:
        with tempfile.TemporaryDirectory() as scratch:
            costs = make_golden(name, Path(scratch))
            report(name, Path(scratch), costs)
            if arguments.check:
                complaints += compare_golden(MODELS / name / "golden.safetensors", Path(scratch) / "golden.safetensors")
            else:
                shutil.copytree(scratch, MODELS / name, dirs_exist_ok=True)
    if arguments.check:
        print("\n".join(complaints) or "all golden files as stored")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
