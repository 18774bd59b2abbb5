"""Gradients of every weight of the tiny models, and five steps of AdamW on all of them: `models/NAME/weights.safetensors`.

The loss is the mean of -ln p over the completions' tokens of the golden batch, without an adapter, in f64.
"""

import sys

import torch
from make_goldens import MODELS, load_base
from reference import next_logprobs
from safetensors.torch import load_file, save_file

NAMES = ["llama2", "llama2-bf16", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"]
STEPS, LEARNING_RATE, WEIGHT_DECAY, CLIP = 5, 1e-3, 0.1, 1.0


def mean_nll(model: torch.nn.Module, stored: dict) -> torch.Tensor:
    total, count = 0.0, 0
    for s, prompt in enumerate(stored["prompt_lengths"].tolist()):
        tokens = stored[f"tokens.{s}"].long()
        logprobs = next_logprobs(model(tokens[None]).logits[0], tokens)[prompt - 1 :]
        total, count = total - logprobs.sum(), count + len(logprobs)
    return total / count


def make(name: str) -> dict:
    model = load_base(name).double().requires_grad_(True)
    # The token that Gemma pads with is in our texts, where it is a token like all others.
    model.get_input_embeddings().padding_idx = None
    stored = load_file(MODELS / name / "golden.safetensors")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    tensors, losses, norms = {}, [], []
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        loss = mean_nll(model, stored)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            tensors = {f"gradient.{n}": p.grad.float().clone() for n, p in model.named_parameters()}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        if step < STEPS:
            optimizer.step()
    tensors["losses"], tensors["norms"] = torch.tensor(losses).float(), torch.tensor(norms).float()
    return tensors


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in NAMES:
        path, tensors = MODELS / name / "weights.safetensors", make(name)
        if "--check" not in sys.argv:
            save_file(tensors, path)
            continue
        old = load_file(path)
        assert old.keys() == tensors.keys(), name
        for key, value in tensors.items():
            error = (old[key] - value).abs().max() / old[key].abs().max()
            assert error < 1e-6, f"{name}: {key} is off by {error:.1e}"


if __name__ == "__main__":
    main()
