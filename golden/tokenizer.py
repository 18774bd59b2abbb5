"""Reference answers for crates/tinylora/src/tokenizer, from transformers and sentencepiece.

    python golden/tokenizer.py FOLDER

FOLDER holds smollm2-135m.gguf and gemma3-270m.gguf. Writes golden/tokenizer/:

    smollm2-135m.json, gemma3-270m.json   texts -> ids, conversations -> text and ids, by transformers
    tiny-spm.gguf, tiny-spm.json          a small vocabulary trained here, texts -> ids, by sentencepiece
    templates.json                        chat templates written for this purpose, rendered by transformers

Two conversions of transformers are not right, and are mended here:

* It does not know `tokenizer.ggml.pre` = "smollm" and takes GPT-2's rules for it. SmolLM2's own tokenizer.json
  splits digits one by one first (llama.cpp does too), so that " 12" is " ", "1", "2".
* It leaves out the user-defined tokens of spaces in Gemma 3 files, which are written with real spaces. A run
  of at most 31 spaces becomes the same token by merging; longer runs do not occur in these texts.
"""

import argparse
import hashlib
import io
import json
import pathlib
import platform
import random

import gguf
import sentencepiece
import tokenizers
import transformers

HERE = pathlib.Path(__file__).parent / "tokenizer"

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " \n", "\n ", " \n \n ", "\r\n", "\r\n\r\n", "a", " a", "a ",
    "  a", "   a", "a  b", "a   b", "a\tb", "a\n b", "a \n b", "    indented", "\tindented", "trailing   ", "x\u00a0y", "x\u3000y",
    "Hello, world!", "hello world", "HELLO WORLD", " Hello", "Hello\n", "Hello World 123", "The quick brown fox jumps over the lazy dog.",
    "It's John's; they're here, we've won, I'm sure, you'll see, he'd go.", "IT'S JOHN'S; THEY'RE HERE", "don't can't won't shouldn't've",
    "‘curly’ “quotes” – dashes — and…", "e.g. i.e. etc. Mr. Smith (Ph.D.)", "foo_bar fooBar FooBar foo-bar foo.bar foo/bar foo\\bar",
    "0", "1", "12", "123", "1234", "12345", "123456789", "0.5", "-3", "+3", "3.14159", "1,234,567.89", "1e-10", "0x1F", "2+2=4", "7 * 8 = 56",
    "12 + 34 = 46", "12+34", " 12", "a12", "a 12", "12 a", "12a", "#### 42", "$5.00", "50%", "½ ¾ ² ³", "Ⅷ ⅳ", "١٢٣", "१२३", "１２３",
    "What is 17 + 25 + 8?\n#### 50", "Q: 3 + 4 + 5?\nA: 3 + 4 = 7. 7 + 5 = 12.\n#### 12\n\nQ: 1 + 2 + 3?\nA:",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.",
    "\\frac{1}{2} + \\sqrt{x^2 + y^2} = \\boxed{\\dfrac{3}{4}}", "$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$",
    "x = [i**2 for i in range(10) if i % 2 == 0]", "def f(x):\n    return x + 1\n\n\nprint(f(3))\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
    "fn main() -> Result<(), Box<dyn Error>> { println!(\"{}\", 1); }", "<html><body><p>Hi</p><table><tr><td>1</td></tr></table></body></html>",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\"}}", "SELECT * FROM t WHERE a = 'b' -- c", "http://example.com/a?b=c&d=e#f", "user@example.com",
    "naïve café résumé Ærø Straße", "cafe\u0301 nai\u0308ve", "Ω≈ç√∫˜µ≤≥÷", "Привет, мир! Как дела?", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！", "こんにちは世界", "カタカナ ｶﾀｶﾅ", "안녕하세요 세계", "Xin chào thế giới", "Zażółć gęślą jaźń", "İstanbul'da ışık",
    "😀", "😀😃", "👍🏽", "👨\u200d👩\u200d👧\u200d👦", "🇩🇪🇫🇷", "a😀b", " 😀 ", "❤️", "\u200b", "\ufeffbom", "\u202eRTL", "\u0000", "\u0001\u0002", "\u007f", "\ufffd",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐍈", "\U0010ffff", "\ue000", "‱ № ™ ©", "▁", "▁▁", "a▁b", "Ġ", "Ċ", "<0x0A>", "<0x41>", "[PAD]", "<|", "|>", "<|im_", "<bos",
    "!!!", "???", "...", "....", ".....", "---", "----------", "==========", "****", "////", "\\\\\\\\", "((((", "))))", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "hahahahahahahaha", "\n" * 5, "\n" * 12, " " * 5, " " * 16, " " * 31, "a" + " " * 12 + "b", "a" + "\n" * 7 + "b", "\t" * 6 + "x", " \t \t ", "x \t\n y",
    "I have 3 apples and 12 oranges; 100 in total? No: 15.", "Version 2.0.1-beta+build.456", "2024-08-01T12:34:56Z", "+49 (0)30 123-4567",
    "Antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis", "ThisIsACamelCaseIdentifierWithXMLHttpRequest", "snake_case_name_2",
]
SPECIAL = {
    "smollm2-135m": [
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", "a <|im_end|> b",
        "<|im_end|><|im_end|>", "<|im_end|>\n\n<|im_start|>", "<repo_name>x<file_sep>y", "<|im_start|>12<|im_end|>", "<|im_end", "x<|endoftext|>y",
    ],
    "gemma3-270m": [
        "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "a<end_of_turn>b",
        "a <end_of_turn> b", "<end_of_turn><end_of_turn>", "<unused0>", "<unk>", "<pad>x", "<b>bold</b> <i>x</i>", "<table>\n<tr><td>", "<h1>a</h1>", "[multimodal]",
        "<start_of_image>", "<bos>a", "</s>", "<s>", "<html> <body>", "<code>x = 1</code>", "<strong", "<tablet>",
    ],
}
CHATS = [
    [("user", "Hi")],
    [("user", "What is 12 + 30?"), ("assistant", "42"), ("user", "And 2 more?")],
    [("system", "You add numbers."), ("user", " 1 + 1 ")],
    [("system", ""), ("user", "")],
    [("user", "line\nline\n\n  indented"), ("assistant", "<|im_end|> inside")],
    [("user", "Grüße 😀 \"quoted\" {{ braces }} {% block %}")],
]


def generated(count=120):
    """Strings put together at random from pieces of many kinds."""
    rng = random.Random(7)
    pieces = [" ", "  ", "   ", "\n", "\n\n", "\t", "1", "23", "456", "7890", "a", "the", "The", "ing", "hello", "World", "'s", "'ll", "don't", ".", ",", "!", "?", ":",
              "(", ")", "+", "-", "*", "/", "=", "####", "$", "%", "é", "ß", "я", "中", "文", "日本", "한", "😀", "👍", "ا", "\u0301", "½", "_", "\"", "\\", "{", "}", "<", ">", "|"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(2, 14))) for _ in range(count)]


def versions():
    return {"python": platform.python_version(), "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
            "sentencepiece": sentencepiece.__version__}


def write(name, value):
    lists = {key: item for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], (dict, list))}
    rest = {key: item for key, item in value.items() if key not in lists}
    rows = [f'"{key}": {json.dumps(item, ensure_ascii=True)}' for key, item in rest.items()]
    for key, item in lists.items():
        rows.append(f'"{key}": [\n' + ",\n".join(json.dumps(row, ensure_ascii=True) for row in item) + "\n]")
    (HERE / name).write_text("{\n" + ",\n".join(rows) + "\n}\n")


def load(folder, name):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=f"{name}.gguf")
    if name == "smollm2-135m":
        steps = [tokenizers.pre_tokenizers.Digits(individual_digits=True), tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(steps)
    return tokenizer


def model(folder, name):
    tokenizer = load(folder, name)
    texts = TEXTS + SPECIAL[name] + generated()
    cases = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True),
                      "decoded_with_special": tokenizer.decode(ids, skip_special_tokens=False)})
    chats = []
    for chat in CHATS if tokenizer.chat_template else []:
        messages = [{"role": role, "content": content} for role, content in chat]
        for prompt in (False, True):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=prompt, return_dict=False)
            chats.append({"messages": messages, "add_generation_prompt": prompt, "text": text, "ids": ids})
    digest = hashlib.sha256((folder / f"{name}.gguf").read_bytes()).hexdigest()
    with_special = [[text, tokenizer.encode(text)] for text in ("", "Hello", " 12 + 3")]
    write(f"{name}.json", {"versions": versions(), "sha256": digest, "vocab_size": len(tokenizer), "bos": tokenizer.bos_token_id,
                           "eos": tokenizer.eos_token_id, "with_special": with_special, "cases": cases, "chats": chats})


def tiny_spm():
    """A vocabulary as Llama 2 has it: BPE by score, bytes, a space before the text."""
    corpus = [text.replace("\0", "") for text in TEXTS if text.isascii() and text.strip()] + [
        "Tokenizers cut text into pieces, and pieces into bytes where they must.", "One and two and three make six; six and seven make thirteen.",
        "she sells sea shells by the sea shore, the shells she sells are surely seashells"] * 3
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=sink, model_type="bpe", vocab_size=520, byte_fallback=True, character_coverage=0.99, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, user_defined_symbols=["<think>", "####"], minloglevel=2, num_threads=1)
    sp = sentencepiece.SentencePieceProcessor(model_proto=sink.getvalue())
    count = sp.get_piece_size()
    kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 4 if sp.id_to_piece(i) in ("<think>", "####") else 1 for i in range(count)]
    writer = gguf.GGUFWriter(HERE / "tiny-spm.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([sp.id_to_piece(i) for i in range(count)])
    writer.add_token_scores([sp.get_score(i) for i in range(count)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    # sentencepiece puts no space before what follows a user-defined token, llama.cpp does: only texts without one
    # inside are compared. It does not decode U+0000.
    texts = [text for text in TEXTS + generated() if not any(mark in text for mark in ("<think>", "####", "\0", "▁"))]
    cases = [{"text": text, "ids": sp.encode(text), "decoded": text} for text in texts]
    write("tiny-spm.json", {"versions": versions(), "cases": cases})


TEMPLATES = {
    "turns with the system text before the first": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<turn>' + role + '\\n' + (first if loop.first else '') + message['content'] | trim + '</turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}",
    "headers and a date": "{%- set date = '26 Jul 2024' %}\n{{- bos_token }}\n{%- for message in messages %}\n    {{- '[' ~ message.role ~ ']\\n' }}\n    {%- if loop.first and not tools %}\n"
    "        {{- 'Date: ' + date + '\\n' }}\n    {%- endif %}\n    {{- message.content | trim ~ '[end]' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '[assistant]\\n' }}\n{%- endif %}\n",
    "blocks on their own lines": "{% for message in messages %}\n  {% if message.role == 'user' %}\nUser: {{ message.content }}\n  {% elif message.role == 'assistant' %}\nBot: {{ message.content }}{{ eos_token }}\n"
    "  {% else %}\n    {# nothing for {{ others }} #}\n  {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\nBot:\n{% endif %}\n",
    "a namespace, a macro, thoughts cut off": "{%- macro show(m, last) -%}{{ m.role.upper() }}: {{ m.content.split('</think>')[-1].lstrip('\\n') }}{% if not last %} | {% endif %}{%- endmacro -%}"
    "{%- set ns = namespace(users=0) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.users = ns.users + 1 -%}{%- endif -%}{{ show(m, loop.last) }}{%- endfor %} ({{ ns.users }})",
    "values as Python writes them": "{{ messages[0] | tojson }} {{ messages | length }} {{ none }} {{ true }} {{ [1, 'a', none] }} {{ 7 // 2 }} {{ 1 / 2 }} {{ messages[0].content | length }}"
    " {{ messages | map(attribute='role') | join(',') }} {{ 'a' in 'abc' }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "loop controls and generation blocks": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% generation %}{{ m.content }}{% endgeneration %};{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}",
    "what is absent": "{{ messages[0].tool_calls is defined }} {{ messages[0].get('name') }} {{ tools is none }} {{ missing is defined }}[{{ missing }}]{{ pad_token }}{{ messages[-1]['role'] == 'user' and add_generation_prompt }}",
}


def templates(folder):
    tokenizer = load(folder, "smollm2-135m")
    names = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    rows = []
    for name, template in TEMPLATES.items():
        for chat in CHATS:
            messages = [{"role": role, "content": content} for role, content in chat]
            for prompt in (False, True):
                try:
                    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=prompt)
                except Exception as error:
                    assert "turns must alternate" in str(error), (name, error)
                    text = None
                rows.append({"name": name, "messages": messages, "add_generation_prompt": prompt, "text": text})
    write("templates.json", {"versions": versions(), "names": names, "templates": TEMPLATES, "cases": rows})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    HERE.mkdir(exist_ok=True)
    for name in SPECIAL:
        model(folder, name)
    tiny_spm()
    templates(folder)


main()
