#!/usr/bin/env bash
# The quick start with seeds 1 to 3, and a control run with a learning rate of 0: keeps metrics and summaries in
# benchmarks/quickstart-DATE/ and prints accuracies before and after. About ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
kept=benchmarks/quickstart-$(date +%F)
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
cargo build --release --workspace
run() {
    local name=$1
    shift
    target/release/tinylora train recipes/quickstart.toml --out "$runs/$name" "$@"
    mkdir -p "$kept/$name"
    cp "$runs/$name/metrics.jsonl" "$runs/$name/summary.json" "$runs/$name/adapter.tinylora" "$kept/$name/"
}
for seed in 1 2 3; do
    run "seed-$seed" --set seed="$seed"
done
run control --set optimizer.learning_rate=0
"$(command -v python3)" - "$kept" <<'PYTHON'
import json, pathlib, sys
gains = {"sampled": [], "greedy": []}
for run in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    summary = json.loads((run / "summary.json").read_text())
    gaps = {json.loads(line)["logprob_gap_max"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    line = f"{run.name:8}"
    for kind in gains:
        before, after = (summary[f"eval_{when}"] for when in ("before", "after"))
        if run.name != "control":
            gains[kind].append(after[f"{kind}_accuracy"] - before[f"{kind}_accuracy"])
        low, high = after[f"{kind}_ci95"]
        line += f"  {kind} {before[f'{kind}_accuracy']:.1%} -> {after[f'{kind}_accuracy']:.1%} ({low:.1%} to {high:.1%})"
    print(line, f" {summary['wall_seconds']:.0f} s, {summary['kernel']}, log-prob gaps {gaps}")
for kind, found in gains.items():
    print(f"mean gain of {len(found)} seeds, {kind}: {100 * sum(found) / len(found):+.1f} points")
PYTHON
