"""transformers `generate` and PEFT + autograd on SmolLM2, in the precision and on as many threads as run.py says."""

import argparse
import time

import peft
import torch
import transformers
from pathlib import Path

from work import DECODE, NEW, PROMPT, TRAIN, decode_row, median, report

PRECISIONS = {"bf16": torch.bfloat16, "f32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file that tinylora loads too")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--weights", choices=PRECISIONS, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model.parent, gguf_file=arguments.model.name, dtype=PRECISIONS[arguments.weights]
    ).eval()
    vocabulary = model.config.vocab_size

    def generate(batch: int, new: int) -> float:
        tokens = torch.randint(0, vocabulary, (batch, PROMPT))
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(
                tokens, attention_mask=torch.ones_like(tokens), do_sample=True, min_new_tokens=new, max_new_tokens=new,
                pad_token_id=0,
            )
        return time.perf_counter() - start

    rows = []
    for batch in DECODE:
        timing = median(lambda: generate(batch, NEW + 1) - generate(batch, 1), arguments.repeats)
        rows.append(decode_row(batch, timing))

    batch, length = TRAIN
    config = peft.TinyLoraConfig(
        r=2, u=13, weight_tying=1.0, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    start = time.perf_counter()
    adapted = peft.get_peft_model(model, config)
    rows.append({"what": "adapter_setup", "seconds": time.perf_counter() - start})
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)

    def train() -> None:
        tokens = torch.randint(0, vocabulary, (batch, length))
        adapted(input_ids=tokens, labels=tokens).loss.backward()
        adapted.zero_grad()

    timing = median(train, arguments.repeats)
    rate = batch * length / timing["seconds"]
    rows.append({"what": "train", "batch": batch, "trained": trained, "tokens_per_second": rate, **timing})
    versions = {"transformers": transformers.__version__, "peft": peft.__version__, "torch": torch.__version__}
    report("transformers", versions, [{"weights": arguments.weights, **row} for row in rows])


if __name__ == "__main__":
    main()
