"""A GRPO step of TRL with PEFT's TinyLoRA (13 numbers, all modules tied): prompts, groups and lengths as in work.py."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import peft
import torch
import transformers
import trl

from work import STEP, report

PRECISIONS = {"bf16": torch.bfloat16, "f32": torch.float32}


class Clock(transformers.TrainerCallback):
    """Seconds of each step."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--weights", choices=PRECISIONS, required=True)
    parser.add_argument("--repeats", type=int, default=3, help="steps counted, after one that is not")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = {"gguf_file": arguments.model.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model.parent, dtype=PRECISIONS[arguments.weights], **where)
    # The weights were dequantised on loading; without this the trainer takes them for quantised ones and refuses.
    model.is_quantized, model.hf_quantizer = False, None
    del model.config.quantization_config
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model.parent, **where)
    model.generation_config.eos_token_id = None  # every completion has its full length
    steps = arguments.repeats + 1
    # About 60 tokens each, like the quick start's prompts.
    text = "Add the numbers and write the result after four hashes, as in 3 + 4 = 7. #### 7. Now the next: {} + {} = ? " * 2
    prompts = [text.format(i, 2 * i + 1, i + 3, i)[:180] for i in range(STEP["prompts"] * (steps + 1))]
    lengths = [len(tokenizer(p)["input_ids"]) for p in prompts]

    def reward(completions, **_):
        return [float(i % 2) for i, _ in enumerate(completions)]  # every group has an advantage

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder, per_device_train_batch_size=STEP["prompts"] * STEP["samples"],
            num_generations=STEP["samples"], max_completion_length=STEP["new"], max_steps=steps, beta=0.0, bf16=arguments.weights == "bf16",
            learning_rate=1e-2, logging_steps=100, save_strategy="no", report_to=[], use_cpu=True, temperature=1.0,
            gradient_checkpointing=False,
        )
        trainer = trl.GRPOTrainer(
            model=model, args=config, processing_class=tokenizer, reward_funcs=reward, callbacks=[clock],
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            peft_config=peft.TinyLoraConfig(
                r=2, u=13, weight_tying=1.0, task_type="CAUSAL_LM",
                target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            ),
        )
        trainer.train()
    seconds = clock.seconds[1:]
    batch = STEP["prompts"] * STEP["samples"]
    row = {
        "what": "grpo_step", "weights": arguments.weights, "batch": batch, "prompt": statistics.mean(lengths), "new": STEP["new"],
        "seconds": statistics.median(seconds), "range": [min(seconds), max(seconds)], "repeats": len(seconds),
        "tokens_per_second": batch * STEP["new"] / statistics.median(seconds),
    }
    report("trl", {"trl": trl.__version__, "peft": peft.__version__, "torch": torch.__version__}, [row])


if __name__ == "__main__":
    main()
