"""Text and tokens."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Iterator, Sequence, Union

import numpy as np

from hetmem import _hetmem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Path = Union[str, "os.PathLike[str]"]

LARGEST_ID = 2**31 - 1


def numpy_of(value: Any, what: str) -> NDArray[Any]:
    """What a user gives as an array, without a copy where it speaks DLPack.

    Raises:
        TypeError: NumPy cannot read it.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    try:
        if hasattr(value, "detach"):  # of PyTorch, which gives away nothing that wants a gradient
            value = value.detach()
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        kind = " ".join(str(getattr(value, name)) for name in ("dtype", "device") if hasattr(value, name))
        raise TypeError(f"{what}: a {type(value).__name__} ({kind}) cannot be read by NumPy: {error}; give "
                        "an array in the host's memory of a dtype that NumPy has") from None


def token_array(tokens: Any, what: str) -> NDArray[np.int32]:
    """Token ids as a contiguous int32 array; nothing that is no whole number is made one.

    Raises:
        TypeError: for floats and anything else that is not an integer.
        ValueError: for an id outside of int32.
    """
    array = numpy_of(tokens, what)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{what} are token ids, int32 or int64; got {array.dtype}")
    if array.dtype != np.int32:
        if array.size and (int(array.min()) < 0 or int(array.max()) > LARGEST_ID):
            wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
            raise ValueError(f"{what}: token id {wrong} is outside of every vocabulary")
        array = array.astype(np.int32)
    return np.ascontiguousarray(array)


class Tokenizer:
    """The byte-level BPE of a model folder (`tokenizer.json` of the GPT-2, Llama 3, Qwen and SmolLM
    families), to the same ids as Hugging Face's. Immutable; threads may share it.

        tokenizer = hetmem.Tokenizer("SmolLM2-135M")
        ids = tokenizer.encode("def main():")        # int32 [n]
        text = tokenizer.decode(ids)

    Args:
        folder: a model folder.

    Raises:
        ValueError: the file is missing, broken, or of a kind that is not implemented.
    """

    def __init__(self, folder: Path):
        self.folder = os.fspath(folder)
        self._tokenizer = _hetmem.Tokenizer(self.folder)

    def encode(self, text: str, add_special_tokens: bool = False) -> NDArray[np.int32]:
        """Token ids of a text, int32 [n]; with those that the template puts around a prompt on demand."""
        return self._tokenizer.encode(text, add_special_tokens)

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of token ids [n]; bytes that are no UTF-8 are replaced."""
        array = token_array(ids, "ids").reshape(-1)
        return self._tokenizer.decode(array, skip_special_tokens).decode("utf-8", errors="replace")

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self._tokenizer.id_of(token)

    def __len__(self) -> int:
        """One more than the largest id."""
        return self._tokenizer.vocabulary()

    def __repr__(self) -> str:
        return f"Tokenizer({self.folder!r}, {len(self)} tokens)"


class Tokens:
    """A stream of tokens in files, read as it is needed; made by load_tokens. Slices are int32 arrays:
    tokens[:100]. Threads may share it."""

    def __init__(self, stream: _hetmem.TokenStream):
        self._stream = stream

    @property
    def files(self) -> list[str]:
        """The token files. Those of text are temporary: they go with this object."""
        return self._stream.files()

    def __len__(self) -> int:
        return self._stream.size()

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step <= 0:
                raise ValueError("a slice of Tokens goes forward")
            return self._stream.read(first, max(0, end - first))[::step]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"position {index} of {len(self)} tokens")
        return int(self._stream.read(at, 1)[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        return f"Tokens({len(self)} tokens in {len(self.files)} files)"


def load_tokens(paths: Path | Sequence[Path], model: Path | None = None, glob: str = "*") -> Tokens:
    """Token files (.bin), text, .jsonl and folders of them as one stream, as `hetmem train --data`
    reads them.

    Args:
        paths: one path or several; they follow each other.
        model: a model folder, whose tokenizer is applied to text and whose vocabulary bounds the ids;
            token files can do without.
        glob: which files of a folder count.

    Raises:
        ValueError: a path is not there, nothing matches, or a file is no data; the message names it.
    """
    several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    listed = [os.fspath(path) for path in several]
    return Tokens(_hetmem.TokenStream(listed, glob, os.fspath(model) if model is not None else ""))


def token_stream(data: Any, what: str) -> NDArray[np.int32]:
    """token_array() of a stream, one-dimensional."""
    stream = token_array(data, what)
    if stream.ndim != 1:
        raise ValueError(
            f"{what} are one stream of tokens, an array [n]; got shape {list(stream.shape)} "
            "(batches [sequences, T + 1] go to Trainer.step, one by one)")
    return stream


@contextlib.contextmanager
def data_paths(data: Any, what: str, vocabulary: int) -> Iterator[list[str]]:
    """Paths, Tokens or a one-dimensional array of token ids as paths of files, while they are used."""
    if isinstance(data, Tokens):
        yield data.files
        return
    if isinstance(data, (str, os.PathLike)):
        yield [os.fspath(data)]
        return
    if isinstance(data, (list, tuple)) and data and isinstance(data[0], (str, os.PathLike)):
        yield [os.fspath(path) for path in data]
        return
    import tempfile  # here: it takes longer to import than the rest of this package

    stream = token_stream(data, what)
    with tempfile.TemporaryDirectory(prefix="hetmem-data-") as folder:
        path = os.path.join(folder, "tokens.bin")
        _hetmem.write_tokens(path, stream, vocabulary)
        yield [path]
