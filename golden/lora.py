"""Gradients and training of LoRA, rsLoRA and LoRA-XS on the tiny models, as PEFT and PyTorch's autograd have them.

In: `models/NAME` with its golden batch (make_goldens.py). Out: `lora/golden.safetensors` with, for each case, the numbers it
starts from, gradients of two losses, and losses and numbers of some steps of AdamW. Never: the engine's own code.

The numbers of LoRA are one list: of each module, layer 0's first and in a block's order, A (r, in), then Bᵀ (r, out). Those of
LoRA-XS are R (r, r) of each module, between PEFT's fixed A and B, which are stored as `factors.CASE` in the order above.

    python golden/lora.py            writes
    python golden/lora.py --check    recomputes and compares with what is stored
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from make_models import MODELS
from reference import (
    ADAM_EPS, BETAS, Batch, compare_golden, everything_in_f64, f32_errors, losses, write_golden,
)

FOLDER = Path(__file__).parent / "lora"
KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS, LEARNING_RATE = 5, 2e-3
# model, kinds of modules, r, alpha, rsLoRA, LoRA-XS
CASES = {
    "lora": ("llama2", KINDS, 3, 6.0, False, False),
    "lora-gemma3": ("gemma3", KINDS, 2, 32.0, False, False),
    "rslora": ("qwen3", ["k_proj", "o_proj", "up_proj"], 4, 5.0, True, False),
    "lora-xs": ("mistral", ["q_proj", "v_proj", "down_proj"], 3, 4.0, False, True),
}


def golden_batch(model: str) -> tuple[Batch, list, list]:
    """The batch, log-probs when it was sampled, and those of the base."""
    stored = load_file(MODELS / model / "golden.safetensors")
    count = len(stored["prompt_lengths"])
    batch = Batch(
        [stored[f"tokens.{s}"].long() for s in range(count)], [int(n) for n in stored["prompt_lengths"]], stored["advantages"], []
    )
    pick = lambda name: [stored[f"{name}.{s}"] for s in range(count)]
    return batch, pick("old_logprobs"), pick("logprobs.base")


def build(case: str, seed: int) -> torch.nn.Module:
    """The model with its adapter; every trained number at random, A as PEFT starts it."""
    name, kinds, r, alpha, rslora, xs = CASES[case]
    base = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(seed)
    config = LoraConfig(r=r, lora_alpha=alpha, use_rslora=rslora, target_modules=kinds, task_type="CAUSAL_LM")
    peft = get_peft_model(base.eval().requires_grad_(False), config).eval()
    generator = torch.Generator().manual_seed(seed)
    for _, layer in layers(peft):
        b = layer.lora_B["default"].weight
        b.data.copy_((0.2 if xs else 0.05) * torch.randn(b.shape, generator=generator))
        if xs:
            add_r(layer, torch.nn.Parameter(0.3 * torch.randn(r, r, generator=generator)))
    return peft


def add_r(layer: torch.nn.Module, r: torch.nn.Parameter) -> None:
    """B R A x, as LoRA-XS has it: R between PEFT's A and B, which are fixed."""
    layer.latent = r
    layer.lora_A["default"].weight.requires_grad_(False)
    layer.lora_B["default"].weight.requires_grad_(False)
    layer.lora_A["default"].register_forward_hook(lambda _module, _inputs, output, layer=layer: output @ layer.latent.T)


def layers(peft: torch.nn.Module) -> list:
    found = [(name, layer) for name, layer in peft.named_modules() if "default" in getattr(layer, "lora_A", {})]
    place = lambda name: (int(name.split(".layers.")[1].split(".")[0]), KINDS.index(name.rsplit(".", 1)[1]))
    return sorted(found, key=lambda item: place(item[0]))


def parameters(peft: torch.nn.Module, xs: bool) -> list[torch.Tensor]:
    if xs:
        return [layer.latent for _, layer in layers(peft)]
    return [part["default"].weight for _, layer in layers(peft) for part in (layer.lora_A, layer.lora_B)]


def flat(tensors: list[torch.Tensor], xs: bool) -> torch.Tensor:
    """One list; every second tensor of LoRA is a B."""
    turned = [t.T if not xs and i % 2 else t for i, t in enumerate(tensors)]
    return torch.cat([t.detach().reshape(-1) for t in turned]).clone()


def quantities(peft: torch.nn.Module, xs: bool, case: str, data: tuple[Batch, list, list]) -> dict:
    batch, old, base = data
    numbers = parameters(peft, xs)
    forward = lambda: [peft(input_ids=tokens[None], use_cache=False).logits[0] for tokens in batch.tokens]
    out = {}
    found = losses(batch, forward(), old, base)
    for loss in ("nll", "grpo"):
        gradient = torch.autograd.grad(found[loss], numbers, retain_graph=True)
        out[f"gradient.{loss}.{case}"] = flat(list(gradient), xs)
    optimizer = torch.optim.AdamW(numbers, lr=LEARNING_RATE, betas=BETAS, eps=ADAM_EPS, weight_decay=0.0)
    values = []
    for step in range(STEPS + 1):
        loss = losses(batch, forward(), old, base)["grpo"]
        values.append(loss.detach().float())
        if step < STEPS:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    out[f"curve.{case}.loss"] = torch.stack(values)
    out[f"curve.{case}.v"] = flat(numbers, xs)
    return out


def everything() -> tuple[dict, dict]:
    tensors, errors = {}, {}
    for number, case in enumerate(CASES):
        xs = CASES[case][-1]
        peft = build(case, 900 + number)
        exact = copy.deepcopy(peft)
        tensors[f"start.{case}"] = flat(parameters(peft, xs), xs)
        if xs:
            tensors[f"factors.{case}"] = flat(parameters(peft, False), False)
        data = golden_batch(CASES[case][0])
        found = quantities(peft, xs, case, data)
        with everything_in_f64():
            exact = exact.double()
            for (_, layer) in layers(exact):
                if xs:
                    layer.lora_A["default"]._forward_hooks.clear()
                    add_r(layer, layer.latent)
            rotary = exact.base_model.model.model.rotary_emb
            rotary.__init__(rotary.config)
            errors |= f32_errors(found, quantities(exact, xs, case, data))
        tensors |= {key: value.float() for key, value in found.items()}
    return tensors, errors


def write(folder: Path) -> None:
    tensors, errors = everything()
    keys = ("model", "kinds", "rank", "alpha", "rslora", "lora_xs")
    cases = {case: dict(zip(keys, settings)) for case, settings in CASES.items()}
    settings = {"steps": STEPS, "learning_rate": LEARNING_RATE, "cases": cases}
    write_golden(folder / "golden.safetensors", tensors, errors, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    if not check:
        FOLDER.mkdir(exist_ok=True)
        return write(FOLDER)
    with tempfile.TemporaryDirectory() as work:
        write(Path(work))
        problems = compare_golden(FOLDER / "golden.safetensors", Path(work) / "golden.safetensors")
    print(json.dumps({"problems": problems}))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
