"""Builds the mixed set of (gold, prediction) pairs on which scorers are compared.

The eight data sets enter from the folder in TINYLORA_DATA; pairs leave on standard output, one JSON object a line:
{"set", "kind", "gold", "prediction"}. A prediction is a completion that holds an answer: the gold itself, the gold
written differently, the gold with a mistake in it, or the gold of another problem. Seeded: the same data give the
same pairs.

    TINYLORA_DATA=... python3 make_pairs.py > pairs.jsonl
"""

import json
import os
import random
import re
import sys
from fractions import Fraction
from pathlib import Path

SETS = {  # name: (file, problems at most, rounds over them)
    "gsm8k": ("gsm8k/test.jsonl", 700, 1),
    "math500": ("math500/test.jsonl", 500, 3),
    "minerva_math": ("minerva_math/test.jsonl", 272, 3),
    "gaokao2023en": ("gaokao2023en/test.jsonl", 385, 3),
    "olympiadbench": ("olympiadbench/test.jsonl", 675, 2),
    "college_math": ("college_math/test.jsonl", 900, 1),
    "aime24": ("aime24/test.jsonl", 30, 4),
    "amc23": ("amc23/test.jsonl", 40, 4),
}


def boxed(text):
    """The content of the last box."""
    start = text.rfind("boxed{") + len("boxed{")
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]


def gold_of(name, row):
    if name == "gsm8k":
        return row["answer"].split("####")[1].strip()
    if name == "minerva_math":
        return boxed(row["solution"])
    if name == "olympiadbench":
        return row["final_answer"][0]
    return str(row["answer"])


def bare(gold):
    """Without dollar signs around it, as it would stand in a box."""
    gold = gold.strip()
    return gold[1:-1].strip() if len(gold) > 1 and gold[0] == gold[-1] == "$" and "$" not in gold[1:-1] else gold


def rewritten(rng, text):
    """The same value in another form; the text itself where no rule applies."""
    number = re.fullmatch(r"-?\d+(\.\d+)?", text)
    fraction = re.fullmatch(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", text)
    ways = []
    if number:
        ways += [lambda: text + (".0" if "." not in text else "0"), lambda: f"x={text}", lambda: f"\\text{{}}{text}"]
        ways += [lambda: f"{text} \\text{{ units}}", lambda: f"\\${text}", lambda: f"({text})", lambda: f"{text}."]
        if "." in text:
            value = Fraction(text)
            ways += [lambda: f"\\frac{{{value.numerator}}}{{{value.denominator}}}"] * 3
        elif len(text.lstrip("-")) > 3:
            ways += [lambda: f"{int(text):,}", lambda: f"{int(text):,}".replace(",", "{,}")] * 2
    if fraction:
        sign, a, b = fraction.groups()
        ways += [lambda: f"{sign}{a}/{b}", lambda: f"{sign}\\dfrac{{{a}}}{{{b}}}", lambda: f"x = {text}"]
        ways += [lambda: f"\\frac{{{sign}{int(a) * 2}}}{{{int(b) * 2}}}", lambda: f"\\frac{{{sign}{a}}}{{{b}}}"]
        ways += [lambda: str(float(Fraction(int(sign + a), int(b))))]
    if not ways:
        if "\\frac" in text:
            ways += [lambda: text.replace("\\frac", "\\dfrac"), lambda: text.replace("\\frac", "\\tfrac")]
        if "(" in text and "\\left" not in text:
            ways += [lambda: text.replace("(", "\\left(").replace(")", "\\right)")]
        if "\\left" in text:
            ways += [lambda: text.replace("\\left", "").replace("\\right", "")]
        if "+" in text and text.count("+") == 1 and not re.search(r"[=,({<>]", text):
            ways += [lambda: "+".join(reversed([part.strip() for part in text.split("+")]))] * 2
        if " " in text and "\\" not in text:
            ways += [lambda: f"\\text{{{text}}}"]
        ways += [lambda: text.replace(" ", ""), lambda: text.replace("+", " + ").replace("=", " = ")]
        ways += [lambda: f"{text}.", lambda: f" {text} ", lambda: text.replace(",", ", ")]
    return rng.choice(ways)()


def mistaken(rng, text):
    """Another value that looks alike."""
    ways = []
    digits = [match.start() for match in re.finditer(r"\d", text)]
    if digits:
        at = rng.choice(digits)
        digit = rng.choice([d for d in "123456789" if d != text[at]])
        ways += [lambda: text[:at] + digit + text[at + 1 :]] * 3
    if re.fullmatch(r"-?[\d.]+", text):
        ways += [lambda: str(int(float(text)) + rng.choice([1, -1, 2, 10])), lambda: f"-{text}".replace("--", "")]
        ways += [lambda: text + "0"]
    if "+" in text:
        ways += [lambda: text.replace("+", "-", 1)]
    if re.search(r"(?<=[\w})])-", text):
        ways += [lambda: re.sub(r"(?<=[\w})])-", "+", text, count=1)]
    if "," in text:
        ways += [lambda: ",".join(text.split(",")[:-1])]
    if text and text[0] in "([" and text[-1] in ")]":
        ways += [lambda: {"(": "[", "[": "("}[text[0]] + text[1:]]
    if "x" in text and "\\" not in text:
        ways += [lambda: text.replace("x", "y")]
    if len(text) == 1 and text in "ABCDE":
        ways += [lambda: rng.choice([c for c in "ABCDE" if c != text])]
    if not ways:
        ways += [lambda: f"2 {text}", lambda: f"{text}+1", lambda: f"-{text}"]
    return rng.choice(ways)()


WRAPPERS = [
    (10, "So the answer is $\\boxed{{{0}}}$."),
    (6, "Adding these up gives the total.\n\n\\[\n\\boxed{{{0}}}\n\\]"),
    (3, "\\boxed{{{0}}}"),
    (3, "We find 3 cases and check each of them.\nThe final answer is ${0}$. I hope it is correct."),
    (2, "Therefore, the answer is ${0}$."),
    (2, "${0}$"),
    (1, "The answer is {0}"),
]


def completion(rng, name, answer):
    if name == "gsm8k" and rng.random() < 0.4:
        return f"She has 3 + 4 = 7 of them and pays for each.\n#### {answer}"
    wrappers = [wrapper for _, wrapper in WRAPPERS]
    return rng.choices(wrappers, [weight for weight, _ in WRAPPERS])[0].format(answer)


def main():
    data = Path(os.environ["TINYLORA_DATA"])
    for name, (file, most, rounds) in SETS.items():
        rng = random.Random(f"pairs of {name}")
        golds = [gold_of(name, json.loads(line)) for line in (data / file).read_text().splitlines()]
        chosen = rng.sample(golds, min(most, len(golds)))
        for turn in range(rounds):
            for gold in chosen:
                kind = rng.choices(["same", "rewritten", "mistaken", "other"], [2, 4, 3, 1])[0]
                text = bare(gold)
                answer = {
                    "same": lambda: text,
                    "rewritten": lambda: rewritten(rng, text),
                    "mistaken": lambda: mistaken(rng, text),
                    "other": lambda: bare(rng.choice(golds)),
                }[kind]()
                pair = {"set": name, "kind": kind, "gold": gold, "prediction": completion(rng, name, answer)}
                json.dump(pair, sys.stdout, ensure_ascii=False)
                print()


if __name__ == "__main__":
    main()
