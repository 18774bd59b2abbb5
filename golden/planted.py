"""Planted errors: the mistakes an engine could make, put into the reference on purpose.

In: a model with its adapter and the true logits. Out: for each mistake that the family allows, the relative error
that it makes in the logits. A golden file from which a mistake could not be told is refused.
Never: changes the model it is given (each mistake is made in a copy).
"""

import copy

import torch

from reference import Batch, relative_error, tolerance

LEAST = 10.0  # a mistake must be at least this many times the tolerance


def costs(name: str, peft, batch: Batch, tensors: dict, errors: dict) -> dict[str, float]:
    """Mistake → relative error of the adapted logits, the largest over the sequences."""
    found = {}
    keys = [f"logits.adapter.{s}" for s in range(len(batch.tokens))]
    allowed = max(tolerance(key, errors[key])["tolerance"] for key in keys)
    for mistake, make in mistakes(peft).items():
        wrong = copy.deepcopy(peft)
        for layer in tinylora_layers(wrong):
            layer.__dict__.pop("_compute_R", None)
        make(wrong.base_model.model)
        with torch.no_grad():
            errors = [
                relative_error(wrong(input_ids=tokens[None]).logits[0], tensors[key])
                for key, tokens in zip(keys, batch.tokens)
            ]
        found[mistake] = float(f"{max(errors):.2g}")
        if found[mistake] < LEAST * allowed:
            raise ValueError(f"{name}: '{mistake}' changes the logits by {found[mistake]:.1e} only")
    return found


def mistakes(peft) -> dict:
    """Mistake → function that makes it in a model."""
    model = peft.base_model.model
    config = model.config
    out = {
        "norm epsilon doubled": double_epsilon,
        "rope base 1 % larger": lambda m: for_rope(m, lambda f: f * 1.01 ** -torch.linspace(0, 1, len(f))),
        "rope pairs neighbours": interleave_rope,
        "first norm's weight left out": lambda m: neutral_norm(m.model.layers[0].input_layernorm),
        "last norm's weight left out": lambda m: neutral_norm(m.model.norm),
        "query heads shifted": lambda m: roll_heads(m.model.layers[0].self_attn, "q_proj"),
        "R transposed": transpose_projection,
        "v of the next group": next_group,
        "last module without adapter": lambda m: tinylora_layers(m)[-1].tinylora_B["default"].zero_(),
    }
    if config.num_key_value_heads > 1:
        out["key heads shifted"] = lambda m: roll_heads(m.model.layers[0].self_attn, "k_proj")
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        out["window one token longer"] = lambda m: set_window(m, config.sliding_window + 1)
        out["window one token shorter"] = lambda m: set_window(m, config.sliding_window - 1)
    if model.config.model_type == "qwen2":
        for part in ("q_proj", "k_proj", "v_proj"):
            out[f"no bias in {part}"] = lambda m, part=part: zero_bias(m, part)
    if hasattr(model.model.layers[0].self_attn, "q_norm"):
        out["q norm's weight left out"] = lambda m: neutral_norm(m.model.layers[0].self_attn.q_norm)
        out["k norm's weight left out"] = lambda m: neutral_norm(m.model.layers[0].self_attn.k_norm)
    if model.config.model_type == "llama" and config.rope_parameters["rope_type"] == "llama3":
        out["no llama3 rope scaling"] = lambda m: m.model.rotary_emb.inv_freq.copy_(plain_rope(m))
    if model.config.model_type == "gemma3_text":
        out.update(gemma_mistakes())
    if len(group_keys(model)) == 1:
        del out["v of the next group"]
    if next(iter(tinylora_layers(model))).r["default"] == 1:
        del out["R transposed"]
    return out


def gemma_mistakes() -> dict:
    return {
        "embedding scale rounded to bf16": lambda m: m.model.embed_tokens.embed_scale.copy_(
            m.model.embed_tokens.embed_scale.bfloat16()
        ),
        "exact GELU": lambda m: [setattr(layer.mlp, "act_fn", torch.nn.GELU()) for layer in m.model.layers],
        "scores over the head size's root": lambda m: [
            setattr(layer.self_attn, "scaling", layer.self_attn.head_dim**-0.5) for layer in m.model.layers
        ],
        "no linear rope scaling": lambda m: m.model.rotary_emb.full_attention_inv_freq.mul_(8.0),
        "one rope base": lambda m: m.model.rotary_emb.sliding_attention_inv_freq.copy_(
            m.model.rotary_emb.full_attention_inv_freq
        ),
        "global layers come first": global_layers_first,
        "norm after attention left out": lambda m: neutral_norm(m.model.layers[0].post_attention_layernorm),
        "norm after the MLP left out": lambda m: neutral_norm(m.model.layers[0].post_feedforward_layernorm),
    }


def tinylora_layers(model) -> list:
    return [layer for layer in model.modules() if hasattr(layer, "_tinylora_v_key")]


def group_keys(model) -> set:
    return {layer._tinylora_v_key["default"] for layer in tinylora_layers(model)}


def double_epsilon(model) -> None:
    for module in model.modules():
        for field in ("eps", "variance_epsilon"):
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, 2.0 * getattr(module, field))


def neutral_norm(norm) -> None:
    norm.weight.data.fill_(0.0 if type(norm).__name__.startswith("Gemma") else 1.0)


def for_rope(model, change) -> None:
    for name, table in model.model.rotary_emb.named_buffers():
        if name.endswith("inv_freq") and "original" not in name:
            table.copy_(change(table))


def plain_rope(model) -> torch.Tensor:
    config = model.config
    powers = torch.arange(0, config.head_dim, 2) / config.head_dim
    return config.rope_parameters["rope_theta"] ** -powers


def interleave_rope(model) -> None:
    """Rotating neighbours instead of halves is the same as permuting the rows of q and k before rotating halves."""
    for layer in model.model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            weight = part.get_base_layer().weight.data
            heads = weight.view(-1, layer.self_attn.head_dim, weight.shape[1])
            heads.copy_(torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1))


def roll_heads(attention, part: str) -> None:
    weight = getattr(attention, part).get_base_layer().weight.data
    weight.copy_(weight.roll(attention.head_dim, dims=0))


def transpose_projection(model) -> None:
    for layer in tinylora_layers(model):
        layer.tinylora_P["default"] = layer.tinylora_P["default"].transpose(1, 2).contiguous()


def next_group(model) -> None:
    count = len(group_keys(model))
    for layer in tinylora_layers(model):
        layer._tinylora_v_key["default"] = str((int(layer._tinylora_v_key["default"]) + 1) % count)


def set_window(model, window: int) -> None:
    model.config.sliding_window = window
    for layer in model.model.layers:
        if getattr(layer.self_attn, "sliding_window", None):
            layer.self_attn.sliding_window = window


def zero_bias(model, part: str) -> None:
    getattr(model.model.layers[0].self_attn, part).get_base_layer().bias.data.zero_()


def global_layers_first(model) -> None:
    model.config.layer_types = model.config.layer_types[1:] + model.config.layer_types[:1]
    for layer, kind in zip(model.model.layers, model.config.layer_types):
        layer.self_attn.layer_type = kind
        if hasattr(layer, "attention_type"):
            layer.attention_type = kind
