"""How many numbers PEFT trains on a model of SmolLM2-135M's shape, for `tinylora adapter count`.

Out: `counts.json`: method, sizes, modules, trained numbers. The weights are never made: everything is on torch's meta device.
LoRA-XS is not in PEFT; as in its authors' code each of PEFT's LoRA modules gets an R of rank × rank.

    python golden/counts.py             writes
    python golden/counts.py --check     compares
"""

import argparse
import json
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, TinyLoraConfig, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

FILE = Path(__file__).parent / "counts.json"
SHAPE = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base() -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(SHAPE)


def trained(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def lora(rank: int, targets: list) -> torch.nn.Module:
    return get_peft_model(base(), LoraConfig(r=rank, target_modules=targets), low_cpu_mem_usage=True)


def vera(rank: int, targets: list) -> int:
    # VeRA fills its shared random matrices at once, which the meta device does not have: the shape has few layers here,
    # and each layer trains as many numbers as any other.
    few = LlamaConfig(**{**SHAPE.to_dict(), "num_hidden_layers": 2, "vocab_size": 64})
    model = get_peft_model(AutoModelForCausalLM.from_config(few), VeraConfig(r=rank, target_modules=targets))
    return trained(model) // 2 * SHAPE.num_hidden_layers


def tinylora(u: int, n_tie: int, targets: list) -> int:
    """`weight_tying` is the share of modules that have no vector of their own: modules / n_tie groups."""
    modules = SHAPE.num_hidden_layers * len(targets)
    groups = -(-modules // (n_tie or modules))
    few = LlamaConfig(**{**SHAPE.to_dict(), "hidden_size": 36, "intermediate_size": 40, "vocab_size": 64})
    config = TinyLoraConfig(r=2, u=u, weight_tying=1 - groups / modules, target_modules=targets)
    return trained(get_peft_model(AutoModelForCausalLM.from_config(few), config))


def cases() -> list:
    found = [{"method": "full", "targets": ALL, "numbers": trained(base())}]
    for targets in (ALL, ["q_proj", "v_proj"]):
        for rank in (1, 8, 64):
            model = lora(rank, targets)
            xs = sum(1 for name, _ in model.named_modules() if name.endswith(".lora_A.default")) * rank * rank
            sizes = {"rank": [rank], "targets": targets}
            found.append({"method": "lora", **sizes, "numbers": trained(model)})
            found.append({"method": "lora-xs", **sizes, "numbers": xs})
            found.append({"method": "vera", **sizes, "numbers": vera(rank, targets)})
        for u, n_tie in ((1, 0), (13, 0), (1, 1), (4, 1), (1, 5), (2, 15)):
            sizes = {"u": [u], "n_tie": [n_tie], "targets": targets}
            found.append({"method": "tinylora", **sizes, "numbers": tinylora(u, n_tie, targets)})
    return found


def made() -> str:
    versions = {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n    ".join(json.dumps(case) for case in cases())
    return f'{{\n  "versions": {json.dumps(versions)},\n  "cases": [\n    {lines}\n  ]\n}}\n'


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        assert json.loads(FILE.read_text())["cases"] == json.loads(made())["cases"], "other counts"
        print("counts: as stored")
    else:
        FILE.write_text(made())
