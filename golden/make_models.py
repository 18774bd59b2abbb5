"""Tiny random models, one a family, as `config.json` + safetensors.

Out: `models/NAME/config.json` (keys as model repositories have them), `config.v5.json` (the same settings
as transformers 5 writes them) and the weights in f32 (one model: bf16 in shards with an index).
Nothing is at its trivial value: norm weights are not 1, biases not 0, sizes are odd on purpose, ε is large
enough to be seen, windows and rope scaling act within 30 tokens. Never: a tokenizer.

    python golden/make_models.py            writes all models
    python golden/make_models.py --check    recomputes them and compares with what is stored
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

MODELS = Path(__file__).parent / "models"

# D hidden_size, F intermediate_size, H num_attention_heads, K num_key_value_heads, V vocab_size, L num_hidden_layers.
CONFIGS = {
    "llama2": dict(
        model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=320, hidden_size=48,
        intermediate_size=112, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        hidden_act="silu", max_position_embeddings=128, rms_norm_eps=1e-3, rope_theta=10000.0,
        rope_scaling=None, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
    ),
    "llama2-tied": dict(
        model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=331, hidden_size=40,
        intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, head_dim=24,
        hidden_act="silu", max_position_embeddings=128, rms_norm_eps=1e-4, rope_theta=100000.0,
        rope_scaling=None, tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
    ),
    "llama3": dict(
        model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=320, hidden_size=56,
        intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
        hidden_act="silu", max_position_embeddings=512, rms_norm_eps=1e-3, rope_theta=500000.0,
        rope_scaling=dict(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
        tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
    ),
    "mistral": dict(
        model_type="mistral", architectures=["MistralForCausalLM"], vocab_size=320, hidden_size=48,
        intermediate_size=100, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=24,
        hidden_act="silu", max_position_embeddings=128, rms_norm_eps=1e-4, rope_theta=1000000.0,
        sliding_window=8, tie_word_embeddings=False,
    ),
    "qwen2": dict(
        model_type="qwen2", architectures=["Qwen2ForCausalLM"], vocab_size=333, hidden_size=56,
        intermediate_size=84, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        hidden_act="silu", max_position_embeddings=128, rms_norm_eps=1e-3, rope_theta=1000000.0,
        sliding_window=32768, use_sliding_window=False, max_window_layers=3, tie_word_embeddings=True,
    ),
    "qwen3": dict(
        model_type="qwen3", architectures=["Qwen3ForCausalLM"], vocab_size=320, hidden_size=40,
        intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
        hidden_act="silu", max_position_embeddings=128, rms_norm_eps=1e-3, rope_theta=1000000.0,
        rope_scaling=None, sliding_window=None, use_sliding_window=False, max_window_layers=4,
        attention_bias=False, tie_word_embeddings=False,
    ),
    "gemma3": dict(
        model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], vocab_size=320, hidden_size=40,
        intermediate_size=80, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=1, head_dim=24,
        hidden_activation="gelu_pytorch_tanh", max_position_embeddings=128, rms_norm_eps=1e-3,
        query_pre_attn_scalar=20, sliding_window=8, sliding_window_pattern=3, rope_theta=1000000.0,
        rope_local_base_freq=10000.0, rope_scaling=dict(rope_type="linear", factor=8.0),
        attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=False, tie_word_embeddings=True,
    ),
}
CONFIGS["llama2-bf16"] = CONFIGS["llama2"]  # the same numbers rounded to bf16, in three shards
SHARDS = 3


def random_weights(name: str, config: dict) -> dict[str, torch.Tensor]:
    """All weights of a model in f32, in the order and under the names of its state dict."""
    model = AutoModelForCausalLM.from_config(hub_config(config))
    generator = torch.Generator().manual_seed(1000 + list(CONFIGS).index(name) % (len(CONFIGS) - 1))
    weights = {}
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        weights[key] = random_tensor(key, value.shape, config, generator)
    return weights


def random_tensor(key: str, shape: torch.Size, config: dict, generator: torch.Generator) -> torch.Tensor:
    normal = torch.randn(shape, generator=generator)
    if key.endswith("norm.weight"):
        return 0.3 * normal if config["model_type"].startswith("gemma") else 1.0 + 0.3 * normal
    if key.endswith("bias"):
        return 0.5 * normal
    if "embed_tokens" in key or "lm_head" in key:
        return 2.5 / config["hidden_size"] ** 0.5 * normal  # logits with a deviation of about 2.5
    return normal / shape[1] ** 0.5


def hub_config(config: dict):
    """The config object that transformers makes of our dictionary."""
    return AutoConfig.for_model(**json.loads(json.dumps(config)))


def write_model(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIGS[name]
    bf16 = name.endswith("-bf16")
    stored = dict(config, torch_dtype="bfloat16" if bf16 else "float32")
    (folder / "config.json").write_text(json.dumps(stored, indent=2) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        new = hub_config(stored)
        new.save_pretrained(scratch)
        (folder / "config.v5.json").write_text((Path(scratch) / "config.json").read_text().rstrip() + "\n")
    weights = random_weights(name, config)
    if not bf16:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weights = {key: value.to(torch.bfloat16) for key, value in weights.items()}
    write_shards(weights, folder)


def write_shards(weights: dict[str, torch.Tensor], folder: Path) -> None:
    total = sum(value.nbytes for value in weights.values())
    shards, filled = [{} for _ in range(SHARDS)], 0
    for key, value in weights.items():
        shards[min(filled * SHARDS // total, SHARDS - 1)][key] = value
        filled += value.nbytes
    places = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places.update({key: file for key in shard})
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def check_model(name: str) -> list[str]:
    """What differs between the stored model and the one made now."""
    complaints = []
    with tempfile.TemporaryDirectory() as scratch:
        write_model(name, Path(scratch))
        for fresh in sorted(Path(scratch).iterdir()):
            stored = MODELS / name / fresh.name
            if not stored.exists():
                complaints.append(f"{stored}: missing")
            elif fresh.suffix == ".safetensors":
                a, b = load_file(fresh), load_file(stored)
                if a.keys() != b.keys() or any(not torch.equal(a[key], b[key]) for key in a):
                    complaints.append(f"{stored}: other tensors than the script makes")
            elif json.loads(fresh.read_text()) != json.loads(stored.read_text()):
                complaints.append(f"{stored}: other settings than the script makes")
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored models, write nothing")
    arguments = parser.parse_args()
    if arguments.check:
        complaints = [line for name in CONFIGS for line in check_model(name)]
        print("\n".join(complaints) or f"{len(CONFIGS)} models as stored")
        sys.exit(bool(complaints))
    for name in CONFIGS:
        write_model(name, MODELS / name)
        size = sum(file.stat().st_size for file in (MODELS / name).iterdir())
        print(f"{name}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
