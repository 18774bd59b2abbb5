"""The quantities that a golden file holds, computed with PyTorch, and how golden files are written and compared.

In: a function from token ids to logits, the adapter's v (and the R matrices each call made of it), a batch of
sequences with prompt lengths and advantages. Out: named tensors, and for each the error of f32 arithmetic,
from which its tolerance follows. Never: anything about a particular model or file format of weights.

Shapes: S sequences; n tokens of a sequence; c of its completion; V vocabulary; g groups; u, r, N modules.
"""

import contextlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import load_file, save_file

TEMPERATURE = 0.7
CLIP_LOW, CLIP_HIGH = 0.2, 0.28
BETAS, ADAM_EPS, STEPS = (0.9, 0.999), 1e-8, 10
TOLERANCES = (1e-5, 2e-5, 5e-5, 1e-4)  # what a relative error may be, at most: the smallest with room for f32
CURVE_TOLERANCES = (*TOLERANCES, 2e-4, 5e-4)  # for v of a loss curve: Adam divides by |gradient|, however small
ROOM = 16.0  # times the error of f32 arithmetic that an engine with another order of summation may make …
LEAST_ROOM = 3.0  # … or less, if the largest tolerance asks for it, but never less than this


@dataclass
class Batch:
    """Sequences of token ids. The first `prompt_lengths[s]` tokens of sequence s are its prompt."""

    tokens: list[torch.Tensor]
    prompt_lengths: list[int]
    advantages: torch.Tensor  # (S,)
    old_noise: list[torch.Tensor]  # (c,) each: old log-probs are the adapter's plus these

    def completion(self, s: int) -> slice:
        """Where the completion's tokens stand in the list of next-token log-probs."""
        return slice(self.prompt_lengths[s] - 1, len(self.tokens[s]) - 1)


@dataclass
class Adapter:
    """The trained numbers, and the R matrices that the last forward calls made of them, by module."""

    v: list[torch.Tensor]  # g leaves of (u,)
    module_count: int
    trace: list[tuple[int, torch.Tensor]]  # (module, R) of every call, filled by the forward


def next_logprobs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """log p(token t + 1 | tokens ≤ t) for each t but the last: (n − 1,), in f64 whatever the logits are.

    Torch's f32 log_softmax over 49152 entries loses the many small ones: 1e-5 of the loss, 1e-4 of its gradient.
    """
    logprobs = torch.log_softmax(logits[:-1].double() / temperature, dim=-1)
    return logprobs.gather(1, tokens[1:, None]).squeeze(1)


def losses(batch: Batch, logits: list[torch.Tensor], old: list[torch.Tensor], base: list[torch.Tensor]) -> dict:
    """Every loss of the goldens, over the completions' tokens. README.md has the formulas."""
    sequences = range(len(batch.tokens))
    at = lambda temperature: [
        next_logprobs(logits[s], batch.tokens[s], temperature)[batch.completion(s)] for s in sequences
    ]
    logprobs, tempered = at(1.0), at(TEMPERATURE)
    count = sum(len(lp) for lp in logprobs)
    a = batch.advantages.double()
    clipped, kl = 0.0, 0.0
    for s in sequences:
        ratio = torch.exp(logprobs[s] - old[s])
        kept = torch.clamp(ratio, 1.0 - CLIP_LOW, 1.0 + CLIP_HIGH)
        clipped = clipped - torch.minimum(a[s] * ratio, a[s] * kept).sum()
        difference = base[s][batch.completion(s)] - logprobs[s]
        kl = kl + (torch.exp(difference) - difference - 1.0).sum()
    return {
        "nll": -sum(lp.sum() for lp in logprobs) / count,
        "grpo": -sum(a[s] * logprobs[s].sum() for s in sequences) / count,
        "grpo_sequence": -sum(a[s] * logprobs[s].mean() for s in sequences) / len(logprobs),
        "grpo_tempered": -sum(a[s] * tempered[s].sum() for s in sequences) / count,
        "clipped": clipped / count,
        "kl": kl / count,
    }


def loss_and_gradients(forward: Callable, adapter: Adapter, batch: Batch, base: list, old: list) -> dict:
    """`loss.NAME` (), `dv.NAME` (g, u) and, for two of them, `dR.NAME` (N, r, r)."""
    adapter.trace.clear()
    logits = [forward(tokens) for tokens in batch.tokens]
    rs = list(adapter.trace)
    out = {}
    for name, loss in losses(batch, logits, old, base).items():
        found = torch.autograd.grad(loss, adapter.v + [r for _, r in rs], retain_graph=True)
        out[f"loss.{name}"] = loss.detach().float()
        out[f"dv.{name}"] = torch.stack(found[: len(adapter.v)])
        if name in ("nll", "grpo"):
            total = torch.zeros(adapter.module_count, *rs[0][1].shape, dtype=rs[0][1].dtype)
            for (module, _), gradient in zip(rs, found[len(adapter.v) :]):
                total[module] += gradient
            out[f"dR.{name}"] = total
    adapter.trace.clear()
    return out


def loss_curve(
    forward: Callable, adapter: Adapter, batch: Batch, base: list, old: list, name: str, learning_rate: float
) -> dict:
    """AdamW on v: losses at the start and after each step (STEPS + 1,), v at the same times (STEPS + 1, g, u)."""
    start = [v.detach().clone() for v in adapter.v]
    optimizer = torch.optim.AdamW(adapter.v, lr=learning_rate, betas=BETAS, eps=ADAM_EPS, weight_decay=0.0)
    values, vs = [], []
    for step in range(STEPS + 1):
        adapter.trace.clear()
        loss = losses(batch, [forward(tokens) for tokens in batch.tokens], old, base)[name]
        values.append(loss.detach().float())
        vs.append(torch.stack([v.detach().clone() for v in adapter.v]))
        if step < STEPS:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    adapter.trace.clear()
    for v, value in zip(adapter.v, start):
        v.data.copy_(value)
        v.grad = None
    return {f"curve.{name}.loss": torch.stack(values), f"curve.{name}.v": torch.stack(vs)}


def adapter_quantities(
    forward: Callable, adapter: Adapter, batch: Batch, base: list, old: list | None, learning_rate: float
) -> dict:
    """Log-probs with the adapter, losses, gradients and curves. `old`: as first computed in f32, or None."""
    out = {}
    with torch.no_grad():
        for s, tokens in enumerate(batch.tokens):
            logits = forward(tokens)
            out[f"logits.adapter.{s}"] = logits
            out[f"logprobs.adapter.{s}"] = next_logprobs(logits, tokens).float()
            out[f"logprobs.adapter_tempered.{s}"] = next_logprobs(logits, tokens, TEMPERATURE).float()
    if old is None:
        old = [out[f"logprobs.adapter.{s}"][batch.completion(s)] + noise for s, noise in enumerate(batch.old_noise)]
    out.update({f"old_logprobs.{s}": value for s, value in enumerate(old)})
    out.update(loss_and_gradients(forward, adapter, batch, base, old))
    for name in ("nll", "grpo"):
        out.update(loss_curve(forward, adapter, batch, base, old, name, learning_rate))
    return out


@contextlib.contextmanager
def everything_in_f64():
    """While active, the model code's own casts to f32 (norms, softmax, rope tables) go to f64 instead."""
    saved = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """max |found − wanted| / max |wanted|: the measure of every tolerance."""
    scale = wanted.double().abs().max().item()
    return (found.double() - wanted.double()).abs().max().item() / scale if scale > 0 else 0.0


def tolerance(name: str, error: float | None) -> dict:
    """A tensor's tolerance with its reason. `error`: f32 against f64; None for inputs."""
    if error is None:
        return {"tolerance": 0.0, "reason": "an input: to be read, not computed"}
    choices = CURVE_TOLERANCES if name.startswith("curve.") and name.endswith(".v") else TOLERANCES
    if LEAST_ROOM * error > choices[-1]:
        raise ValueError(f"{name}: f32 and f64 differ by {error:.1e}, too much for a tolerance of {choices[-1]}")
    allowed = next((value for value in choices if value >= ROOM * error), choices[-1])
    return {
        "tolerance": allowed,
        "f32_error": float(f"{error:.2g}"),
        "reason": f"f32 and f64 runs differ by {error:.1e}; another order of summation may differ more",
    }


def versions() -> dict:
    names = ("torch", "transformers", "peft", "safetensors", "gguf", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def f32_errors(tensors: dict, exact: dict) -> dict[str, float]:
    """By how much each quantity differs from the same in f64."""
    return {name: relative_error(tensors[name], value) for name, value in exact.items()}


def write_golden(path: Path, tensors: dict, errors: dict, settings: dict) -> None:
    """`path` (safetensors) and beside it the same name with .json. `errors`: of everything that is no input."""
    notes = {}
    for name, value in sorted(tensors.items()):
        notes[name] = {"shape": list(value.shape), **tolerance(name, errors.get(name))}
    stored = {name: value.detach().contiguous() for name, value in sorted(tensors.items())}
    save_file(stored, path)
    content = {"versions": versions(), "measure": "max |found - stored| / max |stored|", **settings, "tensors": notes}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def compare_golden(stored_path: Path, fresh_path: Path) -> list[str]:
    """Complaints about a stored golden file, given one made now: names, shapes, values beyond the tolerance."""
    if not stored_path.exists():
        return [f"{stored_path.name}: missing"]
    if stored_path.read_bytes() == fresh_path.read_bytes():
        return []
    stored, fresh = load_file(stored_path), load_file(fresh_path)
    notes = json.loads(stored_path.with_suffix(".json").read_text())["tensors"]
    complaints = [f"{name}: only in one of the files" for name in sorted(stored.keys() ^ fresh.keys())]
    for name in sorted(stored.keys() & fresh.keys()):
        if stored[name].shape != fresh[name].shape:
            complaints.append(f"{name}: shape {list(stored[name].shape)}, now {list(fresh[name].shape)}")
        elif (error := relative_error(fresh[name], stored[name])) > notes[name]["tolerance"]:
            complaints.append(f"{name}: relative error {error:.1e} above {notes[name]['tolerance']:.0e}")
    return [f"{stored_path.parent.name}/{stored_path.name}: {line}" for line in complaints]
