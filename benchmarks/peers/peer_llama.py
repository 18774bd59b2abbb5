"""llama.cpp through its Python package's low-level interface: batched decode as its own batched-bench does it.

The file is decoded as it is shipped (Q4_1) and again with its matrices in bf16, which is what the others use.
"""

import argparse
import ctypes
import random
import time
from pathlib import Path

import llama_cpp as llama

from work import DECODE, NEW, PROMPT, decode_row, median, report


def as_bf16(file: Path, folder: Path) -> Path:
    """The same weights in bf16, by llama.cpp's own conversion."""
    to = folder / (file.stem + ".bf16.gguf")
    if not to.exists():
        parameters = llama.llama_model_quantize_default_params()
        parameters.ftype = llama.LLAMA_FTYPE_MOSTLY_BF16
        parameters.allow_requantize = True
        failed = llama.llama_model_quantize(str(file).encode(), str(to).encode(), ctypes.byref(parameters))
        assert failed == 0, "llama_model_quantize failed"
    return to


def fill(batch, entries: list) -> None:
    """Entries are (token, position, sequence, wants logits)."""
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, logits) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
        batch.seq_id[i][0] = sequence


def decode_rows(file: Path, threads: int, repeats: int) -> list:
    model = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
    assert model, f"cannot load {file}"
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    rows = []
    for sequences in DECODE:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = sequences * (PROMPT + NEW + 2)
        parameters.n_batch = parameters.n_ubatch = 2048
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        context = llama.llama_init_from_model(model, parameters)
        assert context, "no context"
        batch = llama.llama_batch_init(4096, 0, 1)
        memory = llama.llama_get_memory(context)

        def run() -> float:
            llama.llama_memory_clear(memory, True)
            for start in range(0, sequences, 16):
                prompts = [
                    (random.randrange(vocabulary), position, sequence, position == PROMPT - 1)
                    for sequence in range(start, min(start + 16, sequences))
                    for position in range(PROMPT)
                ]
                fill(batch, prompts)
                assert llama.llama_decode(context, batch) == 0
            began = time.perf_counter()
            for step in range(NEW):
                fill(batch, [(random.randrange(vocabulary), PROMPT + step, s, True) for s in range(sequences)])
                assert llama.llama_decode(context, batch) == 0
            llama.llama_synchronize(context)
            return time.perf_counter() - began

        rows.append(decode_row(sequences, median(run, repeats)))
        llama.llama_batch_free(batch)
        llama.llama_free(context)
    llama.llama_model_free(model)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    llama.llama_backend_init()
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    rows = []
    for weights, file in (("bf16", as_bf16(arguments.model, arguments.scratch)), ("q4_1", arguments.model)):
        found = decode_rows(file, arguments.threads, arguments.repeats)
        rows += [{"weights": weights, **row} for row in found]
    report("llama.cpp", {"llama-cpp-python": llama.__version__}, rows)


if __name__ == "__main__":
    main()
