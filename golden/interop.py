"""Adapters that PEFT makes, for the import, and a check of the exports with PEFT, transformers and the gguf package.

Out: `interop/NAME/`, adapters of the tiny models as PEFT saves them (LoRA-XS: as its authors' code does), and
`interop/golden.safetensors` with the logits of each on its model's first golden sequence. Never: a model's weights.

    python golden/interop.py                    writes
    python golden/interop.py --check            recomputes and compares with what is stored
    python golden/interop.py --check EXPORTS    loads what the engine's tests exported (target/tmp/interop) and compares
    python golden/interop.py --folders FOLDER   loads the folders that the engine's test of GGUF files kept there (it says how)
    python golden/interop.py --older NAME       adds an adapter that another PEFT makes, which must be the one installed
"""

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, TinyLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from make_models import MODELS
from reference import compare_golden, relative_error, versions

FOLDER = Path(__file__).parent / "interop"
TOLERANCE = 1e-5  # of the logits, for another order of summation; measure: max |difference| / max |stored|
# A PEFT version writes no config key that others don't know of the few that matter here.
ADAPTERS = {
    "lora": ("llama2", LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")),
    "rslora-patterns": (
        "qwen3",
        LoraConfig(
            r=2, lora_alpha=5, use_rslora=True, target_modules=["k_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM",
            rank_pattern={"layers.1.self_attn.k_proj": 4, "up_proj": 1},
            alpha_pattern={r"layers\.[02]\.mlp\.up_proj": 3},
        ),
    ),
    "lora-layers": (
        "gemma3",
        LoraConfig(
            r=2, lora_alpha=2, target_modules=["v_proj", "gate_proj"], layers_to_transform=[1, 3, 4], layers_pattern="layers",
            task_type="CAUSAL_LM",
        ),
    ),
    "lora-xs": ("mistral", LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")),
    "tinylora-pattern": (
        "qwen2",
        TinyLoraConfig(
            r=2, u=3, weight_tying=0.6, projection_seed=7, task_type="CAUSAL_LM",
            target_modules=r"model\.layers\.(0|2)\.(self_attn\.[qk]_proj|mlp\.down_proj)",
        ),
    ),
    "tinylora-without-p": (
        "llama3",
        TinyLoraConfig(
            r=3, u=2, weight_tying=0.5, projection_seed=11, save_projection=False, task_type="CAUSAL_LM",
            target_modules=["v_proj", "up_proj"], layers_to_transform=[1, 2],
        ),
    ),
    "tinylora-default-targets": ("llama2-tied", TinyLoraConfig(r=2, u=5, task_type="CAUSAL_LM")),
}
# Made once, with the PEFT that the name says; the scripts' own environment has the current one.
OLDER = {
    "tinylora-peft-0.20": ("qwen2", dict(r=2, u=3, weight_tying=0.8, target_modules=["q_proj", "v_proj", "down_proj"])),
    "tinylora-peft-0.19": ("qwen3", dict(r=2, u=3, weight_tying=0.8, target_modules=["q_proj", "v_proj", "down_proj"])),
}


def load_base(folder: Path) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def first_tokens(model: str) -> torch.Tensor:
    return load_file(MODELS / model / "golden.safetensors")["tokens.0"].long()


def fill(peft: PeftModel, seed: int) -> None:
    """Every trained number at random, large enough to be seen in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(peft.named_parameters()):
        if "tinylora_v" in name or "lora_" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def make_lora_xs(peft: PeftModel, folder: Path, seed: int) -> None:
    """LoRA with a matrix R between A and B, and its file with R under the name that LoRA-XS gives it."""
    generator = torch.Generator().manual_seed(seed)
    mappings = {}
    for name, module in peft.named_modules():
        if not hasattr(module, "lora_A") or "default" not in getattr(module, "lora_A", {}):
            continue
        r = torch.randn(2, 2, generator=generator)
        down = module.lora_A["default"]
        mappings[f"{name}.default_lora_latent_mapping.weight"] = r
        down.register_forward_hook(lambda _module, _inputs, output, r=r: output @ r.T)
    peft.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file) | {key: value.contiguous() for key, value in mappings.items()}
    save_file(tensors, file, metadata={"format": "pt"})


def make_one(folder: Path, number: int, name: str, model: str, config) -> torch.Tensor:
    """Saves one adapter and gives its logits."""
    torch.manual_seed(number)
    peft = get_peft_model(load_base(MODELS / model), config).eval()
    fill(peft, 500 + number)
    if name == "lora-xs":
        make_lora_xs(peft, folder / name, 600 + number)
    else:
        peft.save_pretrained(folder / name)
    (folder / name / "README.md").unlink(missing_ok=True)
    file = folder / name / "adapter_config.json"
    stored = json.loads(file.read_text())
    stored["base_model_name_or_path"] = model
    if isinstance(stored["target_modules"], list):
        stored["target_modules"].sort()
    file.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    with torch.no_grad():
        return peft(input_ids=first_tokens(model)[None], use_cache=False).logits[0].contiguous()


def write_logits(folder: Path, logits: dict, models: dict) -> None:
    save_file(logits, folder / "golden.safetensors")
    notes = {key: {"shape": list(value.shape), "tolerance": TOLERANCE} for key, value in logits.items()}
    content = {"versions": versions(), "adapters": models, "tensors": notes}
    (folder / "golden.json").write_text(json.dumps(content, indent=1) + "\n")


def make(folder: Path) -> None:
    logits, models = {}, {}
    for number, (name, (model, config)) in enumerate(ADAPTERS.items()):
        logits[f"logits.{name}"] = make_one(folder, number, name, model, config)
        models[name] = model
    for name, (model, _) in OLDER.items():
        if (FOLDER / name).is_dir():
            shutil.copytree(FOLDER / name, folder / name)
            logits[f"logits.{name}"] = load_file(FOLDER / "golden.safetensors")[f"logits.{name}"]
            models[name] = model
    write_logits(folder, logits, models)


def add_older(name: str) -> None:
    """One more adapter in the stored folder, made by an older PEFT."""
    import peft

    model, settings = OLDER[name]
    assert peft.__version__.startswith(name.rsplit("-", 1)[1]), f"PEFT {peft.__version__} is installed"
    content = json.loads((FOLDER / "golden.json").read_text())
    logits = load_file(FOLDER / "golden.safetensors")
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    number = 100 + list(OLDER).index(name)
    logits[f"logits.{name}"] = make_one(FOLDER, number, name, model, TinyLoraConfig(**settings, task_type="CAUSAL_LM"))
    write_logits(FOLDER, logits, {**content["adapters"], name: model})
    stored = json.loads((FOLDER / "golden.json").read_text())
    stored["versions"] = content["versions"]
    (FOLDER / "golden.json").write_text(json.dumps(stored, indent=1) + "\n")


def check_exports(exports: Path) -> list[str]:
    """Loads every export of the engine's tests where it belongs and compares its logits with the engine's."""
    complaints, worst = [], {}
    for folder in sorted(path for path in exports.iterdir() if (path / "expected.json").is_file()):
        expected = json.loads((folder / "expected.json").read_text())
        tokens = torch.tensor(expected["tokens"])
        wanted = torch.tensor(expected["logits"]).reshape(len(tokens), -1)
        base = lambda: load_base(MODELS / expected.get("model", folder.name.split(".")[0]))
        models = {
            "peft": lambda: PeftModel.from_pretrained(base(), folder / "peft"),
            "lora": lambda: PeftModel.from_pretrained(base(), folder / "lora"),
            "lora8": lambda: PeftModel.from_pretrained(base(), folder / "lora8"),
            "gguf-lora": lambda: with_gguf_lora(base(), folder / "lora.gguf"),
            "merged": lambda: load_base(folder / "merged"),
            "merged-bf16": lambda: load_base(folder / "merged-bf16"),
        }
        for form in expected.get("forms", models):
            load = models[form]
            with torch.no_grad():
                error = relative_error(load().eval()(input_ids=tokens[None], use_cache=False).logits[0], wanted)
            worst[form] = max(worst.get(form, 0.0), error)
            # bf16 weights are other weights: 2^-9 of each.
            if error > (3e-2 if form == "merged-bf16" else TOLERANCE):
                complaints.append(f"{folder.name}/{form}: logits differ by {error:.1e}")
    print(f"largest differences: {', '.join(f'{form} {error:.1e}' for form, error in worst.items())}")
    return complaints if worst else [f"{exports}: nothing was exported there"]


def check_folders(folders: Path) -> list[str]:
    """Models that were GGUF files in between: the logits of the models that they were made from, and the engine's ids."""
    complaints, errors = [], []
    for folder in sorted(path for path in folders.iterdir() if path.is_dir()):
        tokens = first_tokens(folder.name)[None]
        load = lambda path: load_base(path)(input_ids=tokens, use_cache=False).logits[0]
        with torch.no_grad():
            errors.append(relative_error(load(folder), load(MODELS / folder.name)))
        if errors[-1] > TOLERANCE:
            complaints.append(f"{folder.name}: logits differ by {errors[-1]:.1e}")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for text, ids in json.loads((folder / "expected_ids.json").read_text()):
            theirs = tokenizer(text)["input_ids"]
            if theirs != ids:
                complaints.append(f"{folder.name}: {text!r} is {theirs}, the engine says {ids}")
    print(f"{len(errors)} folders, largest difference {max(errors, default=1.0):.1e}")
    return complaints if errors else [f"{folders}: nothing was kept there"]


def with_gguf_lora(model: torch.nn.Module, file: Path) -> torch.nn.Module:
    """Adds what llama.cpp would: alpha / r · B A, with the rows of q and k of Llama models put back in order."""
    from gguf import GGUFReader, get_tensor_name_map, MODEL_ARCH_NAMES

    reader = GGUFReader(file)
    text = lambda key: bytes(reader.fields[key].parts[-1]).decode()
    assert text("general.type") == "adapter" and text("adapter.type") == "lora"
    architecture = text("general.architecture")
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}
    alpha = float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    used = 0
    for name, parameter in model.named_parameters():
        ours = names.get_name(name, try_suffixes=(".weight",))
        if ours is None or f"{ours}.lora_a" not in tensors:
            continue
        a, b = tensors[f"{ours}.lora_a"], tensors[f"{ours}.lora_b"]
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            d = model.config.head_dim
            b = b.reshape(-1, d // 2, 2, b.shape[1]).transpose(1, 2).reshape(b.shape)
        parameter.data += alpha / a.shape[0] * (b.double() @ a.double()).float()
        used += 2
    assert used == len(tensors), f"{file}: {used} of {len(tensors)} tensors have a place in the model"
    return model


def check_stored(fresh: Path) -> list[str]:
    complaints = compare_golden(FOLDER / "golden.safetensors", fresh / "golden.safetensors")
    for name in ADAPTERS:
        a, b = (load_file(folder / name / "adapter_model.safetensors") for folder in (FOLDER, fresh))
        # A and B of TinyLoRA come from an SVD, which other machines compute with other last bits and signs.
        same = a.keys() == b.keys() and all(
            torch.equal(a[key], b[key]) for key in a if not key.endswith(("tinylora_A", "tinylora_B"))
        )
        complaints += [] if same else [f"interop/{name}: other tensors than the script makes"]
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--older", choices=OLDER, help="make one adapter of an older PEFT")
    parser.add_argument("exports", nargs="?", type=Path, help="with --check: the folder of exports")
    parser.add_argument("--folders", type=Path, help="check these folders alone")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.older:
        add_older(arguments.older)
        return
    if arguments.folders:
        complaints = check_folders(arguments.folders)
        print("\n".join(complaints) or "all folders give the same logits and ids")
        sys.exit(bool(complaints))
    if arguments.exports:
        complaints = check_exports(arguments.exports)
        print("\n".join(complaints) or "all exports give the same logits")
        sys.exit(bool(complaints))
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        if arguments.check:
            complaints = check_stored(Path(scratch))
            print("\n".join(complaints) or "all adapters as stored")
            sys.exit(bool(complaints))
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(scratch, FOLDER)


if __name__ == "__main__":
    main()
