"""A model folder made of nothing, to try things with: the configuration of a small Llama, and a tokenizer
whose tokens are bytes. `python examples/tiny_model.py FOLDER` writes one."""

import json
import pathlib
import sys

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 257,
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 0,
    "eos_token_id": 0, "initializer_range": 0.02, "torch_dtype": "float32",
}


def letters_of_bytes():
    """The letter that byte-level tokenizers write for each byte (GPT-2's bytes_to_unicode)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def write_tiny_model(folder, **changes):
    """Writes config.json (with `changes`) and tokenizer.json; weights are drawn by from_scratch=True."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    vocabulary = {"<|endoftext|>": 0}
    vocabulary |= {letter: byte + 1 for byte, letter in letters_of_bytes().items()}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
               "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "added_tokens": [special], "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


if __name__ == "__main__":
    print(write_tiny_model(sys.argv[1]))
