"""Measures tinylora and its peers on the same work, in turns, and writes a dated JSON.

    python benchmarks/peers/run.py [--only NAME …] [--rounds 5] [--out FILE]

Each round runs all programs one after the other; a ratio is taken within a round, and the median of the rounds counts, as a
shared machine is not as fast at one time as at another. Installs the peers with pip into target/peers (llama.cpp is compiled
there, which takes minutes). The model is the quick start's, fetched by `tinylora model pull`. Nothing else should run on the
machine meanwhile.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCRATCH = ROOT / "target" / "peers"
PEERS = ("transformers", "llama", "trl")
LITTLE = "1.5"  # GiB that a step may use where it has little memory
PRECISION = """
import time, torch
torch.set_num_threads(THREADS)
def seconds(dtype):
    x, w = torch.ones(1280, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - start)
    return min(times)
print("bf16" if seconds(torch.bfloat16) < seconds(torch.float32) else "f32")
"""


def python() -> Path:
    """The peers' interpreter, with everything installed."""
    interpreter = SCRATCH / "venv" / "bin" / "python"
    stamp = SCRATCH / "installed"
    wanted = (HERE / "requirements.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        SCRATCH.mkdir(parents=True, exist_ok=True)
        venv.create(SCRATCH / "venv", with_pip=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-r", HERE / "requirements.txt"], check=True)
        stamp.write_text(wanted)
    return interpreter


def tinylora(*arguments: str) -> str:
    binary = ROOT / "target" / "release" / "tinylora"
    return subprocess.run([binary, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def bench(*options: str) -> dict:
    """What `tinylora bench --json` prints, with its largest memory."""
    binary = ROOT / "target" / "release" / "tinylora"
    command = [binary, "bench", "--model", "smollm2-135m", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit("tinylora bench failed")
    return {**json.loads(text), "peak_rss_bytes": usage.ru_maxrss * 1024}


def compared(ours: dict, peer: dict) -> dict:
    """Of each row that both have: tinylora's tokens a second over the peer's; of an adapter's setup and of a step's memory the
    peer's seconds and bytes over ours. By (what, sequences, peer and weights): (tinylora's, the peer's, ratio)."""
    found = {}
    for row in peer["rows"]:
        name = peer["peer"] + (f' {row["weights"]}' if "weights" in row else "")
        if row["what"] == "adapter_setup":
            mine, theirs = ours["setup"]["seconds"], row["seconds"]
            found["setup, s", None, name] = (mine, theirs, theirs / mine)
        if row["what"] == "grpo_step":
            for what, step in ours["steps"].items():
                mine, theirs = step["rows"][-1]["tokens_per_second"], row["tokens_per_second"]
                found[what, row["batch"], name] = (mine, theirs, mine / theirs)
                mine, theirs = step["peak_rss_bytes"] / 2**30, peer["peak_rss_bytes"] / 2**30
                found[f"{what}, its GiB", row["batch"], name] = (mine, theirs, theirs / mine)
            continue
        for own in ours["rows"]:
            if (own["what"], own["batch"]) == (row["what"], row.get("batch")):
                mine, theirs = own["tokens_per_second"], row["tokens_per_second"]
                found[row["what"], row["batch"], name] = (mine, theirs, mine / theirs)
    return found


def ratios(rounds: list) -> list:
    """Medians over the rounds, and the ratios' range."""
    all_rounds = [
        {key: value for peer in done["peers"] for key, value in compared(done["tinylora"], peer).items()} for done in rounds
    ]
    found = []
    # In order of appearance; a peer may have failed in the first round alone.
    for key in dict.fromkeys(key for values in all_rounds for key in values):
        mine, theirs, ratio = zip(*(values[key] for values in all_rounds if key in values))
        median = statistics.median
        found.append({
            "what": key[0], "batch": key[1], "peer": key[2], "tinylora": median(mine), "theirs": median(theirs),
            "ratio": median(ratio), "range": [min(ratio), max(ratio)], "rounds": len(ratio),
        })
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PEERS, help="these peers alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file for the results [default: benchmarks/peers-DATE/results.json]")
    parser.add_argument("--python", type=Path, help="an interpreter that has the peers already")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--workspace"], cwd=ROOT, check=True)
    interpreter = arguments.python or python()
    model = tinylora("model", "pull", "smollm2-135m").strip().splitlines()[-1]
    link = SCRATCH / "model" / "smollm2-135m.gguf"  # transformers reads a file by folder and name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(model)
    threads = os.cpu_count()
    probe = [interpreter, "-c", PRECISION.replace("THREADS", str(threads))]
    weights = subprocess.run(probe, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    own = {"llama": ["--scratch", SCRATCH], "transformers": ["--weights", weights], "trl": ["--weights", weights]}
    date = datetime.date.today().isoformat()
    out = arguments.out or ROOT / "benchmarks" / f"peers-{date}" / "results.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    chosen = arguments.only or PEERS
    rounds = []
    for number in range(1, arguments.rounds + 1):
        print(f"round {number}: tinylora …", file=sys.stderr, flush=True)
        ours = bench("--decode", "1,8,64", "--sequences", "8", "--repeats", "1", "--setup", "--no-step")
        if "trl" in chosen:
            # A step with as little else as can be: with as much memory as it wants, and with little.
            alone = ["--decode", "1", "--sequences", "1", "--repeats", "1"]
            ours["steps"] = {"step": bench(*alone), f"step in {LITTLE} GiB": bench(*alone, "--memory", LITTLE)}
        peers = []
        for name in chosen:
            print(f"round {number}: {name} …", file=sys.stderr, flush=True)
            command = [interpreter, HERE / f"peer_{name}.py", "--model", link, "--threads", str(threads), "--repeats", "1"]
            done = subprocess.run(command + own[name], stdout=subprocess.PIPE, text=True, cwd=HERE)
            if done.returncode != 0:
                print(f"{name} failed and is left out", file=sys.stderr)
                peers.append({"peer": name, "rows": [], "failed": done.returncode})
                continue
            peers.append(json.loads(done.stdout.strip().splitlines()[-1]))
        rounds.append({"tinylora": ours, "peers": peers})
        # After each round, so that an interrupted run leaves those that are done.
        results = {
            "date": date, "machine": {"system": platform.platform(), "cores": threads}, "pytorch_weights": weights,
            "ratios": ratios(rounds), "rounds": rounds,
        }
        out.write_text(json.dumps(results, indent=1) + "\n")
    for row in results["ratios"]:
        low, high = row["range"]
        print(
            f'{row["what"]:24} {row["batch"] or "":4}  {row["peer"]:18} {row["theirs"]:9.4g}   tinylora {row["tinylora"]:9.4g}'
            f'   {row["ratio"]:6.2f} times ({low:.2f}–{high:.2f})'
        )
    print(out)


if __name__ == "__main__":
    main()
