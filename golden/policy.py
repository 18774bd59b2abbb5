"""Writes policy.json: the losses of GRPO on random log-probs, values and gradients by torch.autograd in f64.

A batch is padded tensors (completions, tokens) with a mask, as trainers on GPUs have it, and each loss is written down here
from its paper, apart from the engine. Inputs are f32 numbers. Run with PyTorch: python policy.py > policy.json
"""

import json
import math
import random
import struct

import torch

torch.set_default_dtype(torch.float64)
LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"]
CLIPS = {"gspo": [(3e-4, 4e-4), (0.05, 0.1)], "cispo": [(1.0, 4.0), (0.3, 0.5)]}
MAX_TOKENS = 12


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def decimal(x):
    """A number of few digits; both sides read it as f32."""
    return float(f"{x:.7g}")


def short(x):
    return float(f"{x:.8g}")


def completion(rng, clip, advantage):
    """Log-probs now, before the update, when sampled, and under the base."""
    low, high = math.log(max(1 - clip[0], 1e-3)), math.log(1 + clip[1])
    tokens = rng.randint(1, 9)
    now = [decimal(-rng.expovariate(0.8)) for _ in range(tokens)]
    kind = rng.choice(["near", "on the bounds", "beyond", "none"])
    distance = {
        "near": lambda: rng.uniform(0.9 * low, 0.9 * high),
        "on the bounds": lambda: rng.choice([low, high]) * rng.choice([1 - 1e-4, 1 + 1e-4]),
        "beyond": lambda: rng.choice([low - rng.expovariate(1.0), high + rng.expovariate(1.0)]),
        "none": lambda: 0.0,
    }[kind]
    old = [decimal(x - distance()) for x in now]
    return {
        "logprobs": now,
        "old": old,
        "sampler": [decimal(x + rng.gauss(0, 0.6)) for x in old],
        "reference": [decimal(x + rng.gauss(0, 0.8)) for x in now],
        "entropies": [decimal(rng.expovariate(0.5)) for _ in range(tokens)],
        "advantage": advantage,
        "truncated": rng.random() < 0.2,
    }


def padded(batch, key):
    longest = max(len(c[key]) for c in batch)
    return torch.tensor([[f32(x) for x in c[key]] + [-1.0] * (longest - len(c[key])) for c in batch])


def loss_of(case, logprobs, entropies):
    batch = [c for group in case["groups"] for c in group]
    group_of = torch.tensor([g for g, group in enumerate(case["groups"]) for _ in group])
    mask = torch.tensor([[float(t < len(c["old"])) for t in range(logprobs.shape[1])] for c in batch])
    if case["mask_truncated"]:
        mask = mask * torch.tensor([[0.0 if c["truncated"] else 1.0] for c in batch])
    low, high = 1 - case["clip_low"], 1 + case["clip_high"]
    advantages = torch.tensor([f32(c["advantage"]) for c in batch])[:, None]
    old, sampler, reference = padded(batch, "old"), padded(batch, "sampler"), padded(batch, "reference")
    lengths = mask.sum(1)
    counted = (lengths > 0).double()

    # The policy's part, (completions, tokens).
    if case["loss"] == "gspo":
        mean = ((logprobs - old) * mask).sum(1) / lengths.clamp(min=1)
        ratio = mean.exp()[:, None]
    else:
        ratio = torch.where(mask > 0, logprobs - old, 0).exp()
    if case["loss"] == "cispo":
        each = -ratio.clamp(low, high).detach() * advantages * logprobs
    else:
        each = torch.maximum(-ratio * advantages, -ratio.clamp(low, high) * advantages)
    importance = (old - sampler).exp()
    cap = case["importance_cap"]
    if case["importance"] == "truncate":
        each = each * importance.clamp(max=cap)
    elif case["importance"] == "mask":
        each = each * torch.where((importance > cap) | (importance * cap < 1), 0, importance)
    each = each.expand_as(mask)

    if case["kl_coefficient"]:
        log_ratio = logprobs - reference
        estimate = {
            "k1": log_ratio,
            "k2": log_ratio**2 / 2,
            "k3": torch.where(mask > 0, -log_ratio, 0).exp() - 1 + log_ratio,
        }[case["kl_estimator"]]
        each = each + case["kl_coefficient"] * estimate
    each = each - case["entropy_coefficient"] * entropies

    each = torch.where(mask > 0, each, 0)
    match case["loss"]:
        case "grpo" | "gspo":
            return (each.sum(1) / lengths.clamp(min=1)).sum() / counted.sum()
        case "dr_grpo":
            return each.sum() / (counted.sum() * MAX_TOKENS)
        case "dapo" | "cispo":
            return each.sum() / mask.sum()
        case "bnpo":
            means = []
            for group in group_of.unique():
                of_group = group_of == group
                if mask[of_group].sum() > 0:
                    means.append(each[of_group].sum() / mask[of_group].sum())
            return torch.stack(means).mean()


def make_case(rng, loss, number):
    clip = rng.choice(CLIPS.get(loss, [(0.2, 0.2), (0.2, 0.28), (0.1, 0.5)]))
    case = {
        "loss": loss,
        "clip_low": clip[0],
        "clip_high": clip[1],
        "kl_estimator": rng.choice(["k1", "k2", "k3"]),
        "kl_coefficient": 0.04 if number % 3 == 1 else 0.0,
        "entropy_coefficient": 0.01 if number % 3 == 2 else 0.0,
        "importance": ["off", "truncate", "off", "mask"][number % 4],
        "importance_cap": rng.choice([1.2, 2.0]),
        "mask_truncated": number % 2 == 1,
        "max_tokens": MAX_TOKENS,
    }
    case["groups"] = []
    for _ in range(rng.randint(2, 4)):
        advantages = [decimal(rng.gauss(0, 1)) for _ in range(rng.randint(2, 5))]
        if rng.random() < 0.2:
            advantages = [0.0] * len(advantages)
        case["groups"].append([completion(rng, clip, a) for a in advantages])
    batch = [c for group in case["groups"] for c in group]
    batch[0]["truncated"] = False
    logprobs, entropies = padded(batch, "logprobs").requires_grad_(), padded(batch, "entropies").requires_grad_()
    loss_value = loss_of(case, logprobs, entropies)
    loss_value.backward()
    case["value"] = short(loss_value.item())
    for i, c in enumerate(batch):
        n = len(c["old"])
        c["slopes"] = [short(x) for x in logprobs.grad[i, :n].tolist()]
        if case["entropy_coefficient"]:
            (c["entropy_slope"],) = {short(x) for x in entropies.grad[i, :n].tolist()}
        unused = {"reference": case["kl_coefficient"], "entropies": case["entropy_coefficient"]}
        for key in [key for key, used in unused.items() if not used] + ["sampler"] * (case["importance"] == "off"):
            del c[key]
    return case


rng = random.Random(20251125)
cases = [make_case(rng, loss, number) for loss in LOSSES for number in range(9)]
print(json.dumps({"torch": torch.__version__, "cases": cases}, separators=(",", ":")))
