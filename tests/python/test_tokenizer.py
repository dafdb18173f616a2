"""`hetmem tokenize` gives the ids of the package `tokenizers`, for the four families' settings."""

import glob
import json
import os
import random
import stat
import sysconfig

import numpy as np
import pytest
from conftest import hetmem, train
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BYTES = dict(add_prefix_space=False, use_regex=False)

FAMILIES = {
    "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "llama3": (None, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(**BYTES)]), True),
    "qwen2": (normalizers.NFC(), pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(**BYTES)]), False),
    "smollm": (None, pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)]), False),
    "prefix": (normalizers.Sequence([normalizers.NFC()]),
               pre_tokenizers.ByteLevel(add_prefix_space=True), False),
}

# A line or two in each of twenty scripts and more, and what tokenizers trip over.
TEXTS = [
    "", " ", "  \n\n\t x", "Hello world! It's we'll THEY'RE I'd x's 'S 'll", "a\r\nb\r\n\r\n  c \n",
    "def f(x):\n    return {'a': [1, 22, 333, 4444], \"b\": x ** 2}  # 50 %\n\n\n\tpass",
    "Ünïcödé café cafe\u0301 A\u030a \u212b ﬁ ½ Ⅷ ² ٣٤٥ ४५६ 一二三 ", "مرحبا بالعالم، كيف حالك؟", "שלום עולם", "नमस्ते दुनिया",
    "হ্যালো বিশ্ব", "ਸਤ ਸ੍ਰੀ ਅਕਾਲ", "வணக்கம் உலகம்", "హలో ప్రపంచం", "ಹಲೋ ವರ್ಲ್ಡ್", "ഹലോ വേൾഡ്", "ආයුබෝවන්",
    "สวัสดีชาวโลก", "ສະບາຍດີ", "မင်္ဂလာပါ", "សួស្តី", "გამარჯობა", "Բարեւ", "Γειά σου Κόσμε", "Привет, мир",
    "你好，世界！", "こんにちは世界 カタカナ", "안녕하세요 세계 각", "ሰላም", "ᏣᎳᎩ", "བོད་སྐད", "ᠮᠣᠩᠭᠣᠯ\u180eᠠ",
    "🙂👩‍👩‍👧‍👦🇫🇷🏳️‍🌈👍🏽 x", "\u00a0\u2003\u3000x\u200b\u200d\ufeff\u2028\u2029\x85y", "\x00\x01\x7f\x1b[0m",
    "<|endoftext|>a<|endoftext|><|endoftext|>b <|im_start|>user\n<|im_end|>", "<|endoftex", "<|wide|>  x",
    "word<|single|>word <|single|> x", "x  <|left|>y<|right|>  z", "aaaaaaaaaaaaaaaa" * 20,
    "x" * 300 + " " * 300 + "\n" * 50, "K's ſ's 'ſ", "e\u0301\u0301\u0323 \u1e69 \u0073\u0323\u0307 \uac00 \u1100\u1161",
]


def stdlib(limit):
    files = sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")))
    text, size = [], 0
    for name in files:
        text.append(open(name, encoding="utf-8", errors="replace").read())
        size += len(text[-1])
        if size > limit:
            break
    return text


def random_texts(count):
    """Letters, marks, digits, spaces and signs of all planes, unassigned code points left out."""
    import unicodedata

    draw = random.Random(3)
    pool = [chr(c) for c in range(1, 0x2FFFF)
            if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    common = list("  \n\t.,'abcXYZ019-_") + ["'s", "\r\n", "é", "e\u0301"]
    texts = []
    for _ in range(count):
        words = []
        for _ in range(draw.randrange(1, 40)):
            words.append(draw.choice(common) if draw.random() < 0.6 else draw.choice(pool))
        texts.append("".join(words))
    return texts


@pytest.fixture(scope="module")
def folders(tmp_path_factory, models_config):
    made = {}
    for name, (normalizer, pre_tokenizer, ignore_merges) in FAMILIES.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        tokenizer.normalizer = normalizer or None
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(
            stdlib(300_000) + TEXTS * 3,
            trainers.BpeTrainer(vocab_size=3000, show_progress=False,
                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
        tokenizer.add_special_tokens([AddedToken("<|left|>", lstrip=True, normalized=False),
                                      AddedToken("<|right|>", rstrip=True, normalized=False)])
        tokenizer.add_tokens([AddedToken("<|single|>", single_word=True, normalized=False),
                              AddedToken("<|wide|>", normalized=True),
                              AddedToken("<|wide|>  x", normalized=True)])
        folder = tmp_path_factory.mktemp(name)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(models_config)
        made[name] = (folder, tokenizer)
    return made


@pytest.fixture(scope="module")
def models_config():
    from conftest import CONFIGS

    config = CONFIGS["gpt2"]().to_dict() | {"vocab_size": 3100}
    return json.dumps(config)


def read_tokens(path):
    raw = path.read_bytes()
    header = np.frombuffer(raw[:1024], np.int32)
    width = {20240520: np.uint16, 20240801: np.uint32}[header[0]]
    ids = np.frombuffer(raw[1024:], width)
    assert len(ids) == header[2]
    return ids.tolist()


def tokenize(folder, path, out):
    done = hetmem("tokenize", "--model", folder, path, "-o", out)
    assert done.returncode == 0, done.stderr
    return read_tokens(out)


def documents(ids, end):
    texts, current = [], []
    for i in ids:
        current.append(i)
        if i == end:
            texts.append(current[:-1])
            current = []
    assert not current
    return texts


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_tokenizers(folders, tmp_path, name):
    folder, tokenizer = folders[name]
    texts = [t for t in TEXTS if "<|endoftext|>" not in t] + random_texts(1500)
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    end = tokenizer.token_to_id("<|endoftext|>")
    found = documents(tokenize(folder, path, tmp_path / "t.bin"), end)
    assert len(found) == len(texts)
    for text, ids in zip(texts, found):
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids, repr(text)


@pytest.mark.parametrize("name", FAMILIES)
def test_files_special_tokens_and_broken_utf8(folders, tmp_path, name):
    folder, tokenizer = folders[name]
    end = tokenizer.token_to_id("<|endoftext|>")
    draw = random.Random(9)
    contents = ["\n".join(TEXTS).encode(), b"", b"\xff\xfe a \xe2\x82 b \xf0\x9f\x99 \xed\xa0\x80 \xc0\xaf",
                "é🙂".encode() * 50 + b"\xf0\x9f",
                bytes(draw.randrange(256) for _ in range(20000))]
    for i, content in enumerate(contents):
        path = tmp_path / f"{i}.txt"
        path.write_bytes(content)
        ids = tokenize(folder, path, tmp_path / f"{i}.bin")
        text = content.decode("utf-8", errors="replace")
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids + [end], i


def test_large_files_are_cut_where_no_token_is(folders, tmp_path):
    for name in ("gpt2", "llama3"):
        folder, tokenizer = folders[name]
        text = "\n\n".join(stdlib(9_000_000))[:9_500_000]
        path = tmp_path / "large.txt"
        path.write_bytes(text.encode())
        ids = tokenize(folder, path, tmp_path / "large.bin")
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids[:-1] == expected


def test_folders_globs_and_order(folders, tmp_path):
    folder, tokenizer = folders["gpt2"]
    end = tokenizer.token_to_id("<|endoftext|>")
    base = tmp_path / "d"
    for name in ("b.py", "a.py", "B.py", "sub/c.py", "sub/d.txt", "a.txt"):
        (base / name).parent.mkdir(exist_ok=True, parents=True)
        (base / name).write_text(name)

    def names(glob):
        done = hetmem("tokenize", "--model", folder, base, "--data-glob", glob, "-o", tmp_path / "o.bin")
        assert done.returncode == 0, done.stderr
        return [tokenizer.decode(ids) for ids in documents(read_tokens(tmp_path / "o.bin"), end)]

    assert names("*.py") == ["B.py", "a.py", "b.py", "sub/c.py"]
    assert names("**/*.py") == ["B.py", "a.py", "b.py", "sub/c.py"]
    assert names("sub/*") == ["sub/c.py", "sub/d.txt"]


def test_train_on_text_is_train_on_its_tokens(folders, tmp_path):
    folder, tokenizer = folders["smollm"]
    base = tmp_path / "d"
    base.mkdir()
    for i, text in enumerate(stdlib(60_000)):
        (base / f"{i}.py").write_text(text)
    (base / "skip.md").write_text("not data")
    done = hetmem("tokenize", "--model", folder, base, "--data-glob", "*.py", "-o", tmp_path / "t.bin")
    assert done.returncode == 0
    flags = dict(from_scratch=True, steps=2, batch_size=2, sequence_length=32)
    tokens = train(folder, tmp_path / "t.bin", tmp_path / "a", **flags)
    text = train(folder, base, tmp_path / "b", data_glob="*.py", eval_data=base, **flags)
    assert [line["loss"] for line in tokens] == [line["loss"] for line in text[:2]]
    assert (tmp_path / "b" / "final" / "tokenizer.json").exists()


def test_llmq_token_files_are_read(folders, tmp_path):
    folder, _ = folders["gpt2"]
    ids = np.arange(100, dtype=np.int32)
    header = np.zeros(256, np.int32)
    header[:7] = [*np.frombuffer(b"BIN.TOK\n", np.int32), 2, 4, 100, 3000, 1]
    (tmp_path / "q.bin").write_bytes(header.tobytes() + ids.tobytes() + bytes(13))
    assert tokenize(folder, tmp_path / "q.bin", tmp_path / "o.bin") == ids.tolist()


def test_bad_text_input(folders, tmp_path):
    folder, _ = folders["gpt2"]

    def refused(path, *says, model=folder):
        done = hetmem("tokenize", "--model", model, path, "-o", tmp_path / "o.bin")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        for text in says:
            assert text in done.stderr, done.stderr
        assert not (tmp_path / "o.bin").exists() and not (tmp_path / "o.bin.partial").exists()

    lines = tmp_path / "l.jsonl"
    for bad in ('{"text": 3}', "[]", '{"texts": "x"}', '{"text": "x"', '{"messages": []}'):
        lines.write_text('{"text": "fine"}\n\n' + bad + "\n")
        refused(lines, "l.jsonl line 3")
    refused(tmp_path / "none.txt", "none.txt")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty")
    text = tmp_path / "t.txt"
    text.write_text("x")
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text((folder / "config.json").read_text())
    refused(text, "tokenizer.json", model=model)
    good = json.loads((folder / "tokenizer.json").read_text())

    def broken(**changes):
        (model / "tokenizer.json").write_text(json.dumps(good | changes))

    for change, says in [
        (dict(model=good["model"] | {"type": "Unigram"}), "Unigram"),
        (dict(normalizer={"type": "Lowercase"}), "Lowercase"),
        (dict(pre_tokenizer={"type": "Metaspace"}), "Metaspace"),
        (dict(model=good["model"] | {"byte_fallback": True}), "byte_fallback"),
        (dict(model=good["model"] | {"merges": ["a"]}), "merge"),
        (dict(model=good["model"] | {"merges": ["qqqq zzzz"]}), "qqqq"),
        (dict(model=good["model"] | {"vocab": {"a": -1}}), "-1"),
        (dict(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}), "pattern"),
    ]:
        broken(**change)
        refused(text, says, model=model)
    (model / "tokenizer.json").write_text("{")
    refused(text, "tokenizer.json", model=model)


def test_the_output_replaces_neither_input_nor_what_is_no_file(folders, tmp_path):
    folder, _ = folders["gpt2"]
    text, model = tmp_path / "a.txt", tmp_path / "model"
    model.mkdir()
    for file in folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    text.write_text("mine")
    (tmp_path / "o.partial").write_text("mine too")
    (tmp_path / "link").symlink_to("a.txt")
    os.link(text, tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "folder").mkdir()
    cases = [(text, text, "a.txt is read"), (text, tmp_path / "link", "a.txt is read"),
             (text, tmp_path / "hard", "a.txt is read"), (tmp_path / "link", text, "link is read"),
             (tmp_path / "o.partial", tmp_path / "o", "o.partial is read"),
             (text, model / "tokenizer.json", "tokenizer.json is read"), (text, tmp_path / "pipe", "a pipe"),
             (text, tmp_path / "nowhere", "leads nowhere"), (text, tmp_path / "folder", "a folder")]
    try:
        os.mknod(tmp_path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        cases.append((text, tmp_path / "null", "a device"))
    except PermissionError:
        pass
    before = {file.name: file.lstat().st_ino for file in tmp_path.iterdir()}
    for read, out, says in cases:
        done = hetmem("tokenize", "--model", model, read, "-o", out)
        assert done.returncode == 2, (out, done)
        assert len(done.stderr.splitlines()) == 1 and says in done.stderr, done.stderr
    assert {file.name: file.lstat().st_ino for file in tmp_path.iterdir()} == before
    assert text.read_text() == "mine" and (tmp_path / "o.partial").read_text() == "mine too"


def test_the_output_is_where_a_link_leads(folders, tmp_path):
    folder, _ = folders["gpt2"]
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "t.bin").write_text("old")
    (tmp_path / "t.bin").symlink_to("there/t.bin")
    ids = tokenize(folder, tmp_path / "a.txt", tmp_path / "t.bin")
    assert (tmp_path / "t.bin").is_symlink() and ids == read_tokens(tmp_path / "there" / "t.bin")
