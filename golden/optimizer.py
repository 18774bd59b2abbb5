"""Writes optimizer.json: ten steps of torch.optim.AdamW and SGD in f32 on gradients that depend on the parameters.

Run with PyTorch: python optimizer.py > optimizer.json
"""

import json

import torch

START = [0.5, -1.25, 0.0, 2.0, 1e-3]
SCALES = [1.0, 0.1, 3.0, 1e-3, 10.0]
TARGETS = [1.0, 1.0, -0.25, -2.0, 0.0]
STEPS = 10


def run(make):
    p = torch.nn.Parameter(torch.tensor(START))
    optimizer = make([p])
    losses, trace, norms = torch.tensor(SCALES), [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (step + 1) / STEPS
        # The gradient of 1/2 * scale * (p - target)^2.
        p.grad = losses * (p.detach() - torch.tensor(TARGETS))
        norms.append(torch.nn.utils.clip_grad_norm_([p], 0.75).item())
        optimizer.step()
        trace.append(p.detach().tolist())
    return {"parameters": trace, "norms": norms}


golden = {
    "torch": torch.__version__,
    "start": START,
    "scales": SCALES,
    "targets": TARGETS,
    "adamw": run(lambda p: torch.optim.AdamW(p, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, foreach=False)),
    "sgd": run(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=False)),
    "nesterov": run(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=False)),
}
print(json.dumps(golden))
