"""table.py RUNS: held-out sampled accuracy of every run at each evaluation, and the rollouts that it took to a given accuracy.

Writes results.json beside itself: accuracies by step, and what each step's metrics say of the update.
"""

import json
import pathlib
import sys

ROLLOUTS_A_STEP = 128
AIMS = (0.15, 0.20, 0.25)
KEPT = ("reward_mean", "grad_norm", "v_norm", "entropy", "rollout_seconds", "train_seconds", "train_tokens")


def accuracy(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sum(row["reward"] >= 1 for row in rows) / len(rows)


def rollouts_to(aim, accuracies):
    """Where the line between two evaluations first reaches the aim."""
    (before, low), *later = sorted(accuracies.items())
    for step, high in later:
        if high >= aim:
            return ROLLOUTS_A_STEP * (before + (step - before) * (aim - low) / (high - low))
        before, low = step, high
    return None


results = {}
for run in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    if not (run / "summary.json").exists():
        continue
    steps = json.loads((run / "summary.json").read_text())["steps"]
    names = {"before": 0, "after": steps}
    accuracies = {}
    for path in (run / "evaluations").glob("*.jsonl"):
        step = names[path.stem] if path.stem in names else int(path.stem.split("-")[1])
        accuracies[step] = accuracy(path)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results[run.name] = {
        "accuracy": dict(sorted(accuracies.items())),
        "steps": [{key: round(step[key], 4) for key in KEPT} for step in metrics],
    }
    mean = sum(accuracies[step] for step in range(3, 19, 3)) / 6
    reached = [rollouts_to(aim, accuracies) for aim in AIMS]
    seconds = sum(step["rollout_seconds"] + step["train_seconds"] for step in metrics) / len(metrics)
    print(
        f"{run.name:28}",
        " ".join(f"{100 * a:5.1f}" for _, a in sorted(accuracies.items())),
        f"| mean {100 * mean:.1f} | to {'/'.join(f'{aim:.0%}' for aim in AIMS)}:",
        " ".join("never" if r is None else f"{r:.0f}" for r in reached),
        f"| {seconds:.1f} s a step",
    )
text = ",\n".join(f"{json.dumps(name)}: {json.dumps(result)}" for name, result in results.items())
(pathlib.Path(__file__).parent / "results.json").write_text("{\n" + text + "\n}\n")
