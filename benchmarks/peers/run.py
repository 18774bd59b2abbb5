"""Measures tinylora and its peers on the same work in one run, one after the other, and writes a dated JSON.

    python benchmarks/peers/run.py [--only NAME …] [--repeats 5] [--out FILE]

Installs the peers with pip into target/peers (llama.cpp is compiled there, which takes minutes). The model is the quick
start's, fetched by `tinylora model pull`. Nothing else should run on the machine meanwhile.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCRATCH = ROOT / "target" / "peers"
PEERS = {"transformers": 1.0, "llama": 1.0, "trl": 0.5}  # share of the repeats: a step of TRL takes a minute


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


def bench(repeats: int) -> dict:
    """What `tinylora bench --json` prints, with its largest memory."""
    binary = ROOT / "target" / "release" / "tinylora"
    command = [binary, "bench", "--model", "smollm2-135m", "--repeats", str(repeats), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit("tinylora bench failed")
    return {**json.loads(text), "peak_rss_bytes": usage.ru_maxrss * 1024}


def ratios(ours: dict, peers: list) -> list:
    """tinylora's tokens a second over each peer's, row by row."""
    found = []
    for peer in peers:
        for row in peer["rows"]:
            same = [r for r in ours["rows"] if r["what"] == row["what"] and r["batch"] == row.get("batch")]
            if same:
                ratio = same[0]["tokens_per_second"] / row["tokens_per_second"]
                kind = f' {row["weights"]}' if "weights" in row else ""
                found.append({
                    "what": row["what"], "batch": row["batch"], "peer": peer["peer"] + kind,
                    "tinylora": same[0]["tokens_per_second"], "theirs": row["tokens_per_second"], "ratio": ratio,
                })
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PEERS, help="these peers alone")
    parser.add_argument("--repeats", type=int, default=5)
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
    ours = bench(arguments.repeats)
    peers = []
    for name, share in PEERS.items():
        if arguments.only and name not in arguments.only:
            continue
        command = [interpreter, HERE / f"peer_{name}.py", "--model", link, "--threads", str(threads)]
        command += ["--repeats", str(max(2, round(arguments.repeats * share)))]
        command += ["--scratch", SCRATCH] if name == "llama" else []
        print(f"{name} …", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE)
        if done.returncode != 0:
            print(f"{name} failed and is left out", file=sys.stderr)
            peers.append({"peer": name, "rows": [], "failed": done.returncode})
            continue
        peers.append(json.loads(done.stdout.strip().splitlines()[-1]))
    date = datetime.date.today().isoformat()
    results = {
        "date": date, "machine": {"system": platform.platform(), "cores": threads}, "tinylora": ours, "peers": peers,
        "ratios": ratios(ours, peers),
    }
    out = arguments.out or ROOT / "benchmarks" / f"peers-{date}" / "results.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    for row in results["ratios"]:
        print(
            f'{row["what"]:10} {row["batch"]:4}  {row["peer"]:18} {row["theirs"]:9.0f} tokens/s   '
            f'tinylora {row["tinylora"]:7.0f}   {row["ratio"]:6.1f} times'
        )
    print(out)


if __name__ == "__main__":
    main()
