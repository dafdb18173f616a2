"""Text and tokens."""

from __future__ import annotations

import contextlib
import operator
import os
import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Iterator, Sequence, Union

import numpy as np

from hetmem import _hetmem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Path = Union[str, "os.PathLike[str]"]

LARGEST_ID = 2**31 - 1


def named(value: Any) -> str:
    """A value and its type, for a message."""
    return f"{reprlib.repr(value)} of type {type(value).__name__}"


def text_given(text: Any, what: str) -> str:
    """A text of a user's.

    Raises:
        TypeError: it is none.
        ValueError: it has surrogates, which UTF-8 does not.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} is a str; got {named(text)}")
    text.encode()
    return text


def paths_given(paths: Any, what: str) -> list[str]:
    """One path of a user's, or several."""
    several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if isinstance(several, bytes) or not isinstance(several, Iterable):
        raise TypeError(f"{what} takes a path or several, of str or os.PathLike; got {named(paths)}")
    listed = list(several)
    if not listed:
        raise ValueError(f"{what} got no path; give files or folders")
    for path in listed:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{what} takes paths, str or os.PathLike; got {named(path)}")
    return [text_given(os.fspath(path), "a path") for path in listed]


def absolute(path: str) -> str:
    """The path from wherever the process goes."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


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
    if array.size == 0 and isinstance(tokens, (list, tuple)):  # to NumPy they are floats
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{what} are token ids, int32 or int64; got {array.dtype}")
    if array.dtype != np.int32:
        if array.size and (int(array.min()) < 0 or int(array.max()) > LARGEST_ID):
            wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
            raise ValueError(f"{what}: token id {wrong} is outside of every vocabulary")
        array = array.astype(np.int32)
    return np.asarray(array, order="C")  # of a number, too, which then has no shape


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
        self.folder = text_given(os.fspath(folder), "folder")
        self._tokenizer = _hetmem.Tokenizer(self.folder)

    def encode(self, text: str, add_special_tokens: bool = False) -> NDArray[np.int32]:
        """Token ids of a text, int32 [n]; with those that the template puts around a prompt on demand."""
        return self._tokenizer.encode(text_given(text, "text"), bool(add_special_tokens))

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of token ids [n]; bytes that are no UTF-8 are replaced."""
        array = token_array(ids, "ids").reshape(-1)
        return self._tokenizer.decode(array, bool(skip_special_tokens)).decode("utf-8", errors="replace")

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self._tokenizer.id_of(text_given(token, "token"))

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
        self._files = [absolute(file) for file in stream.files()]

    @property
    def files(self) -> list[str]:
        """The token files, absolute. Those of text are temporary: they go with this object."""
        return list(self._files)

    def __len__(self) -> int:
        return self._stream.size()

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step <= 0:
                raise ValueError("a slice of Tokens goes forward")
            return self._stream.read(first, max(0, end - first))[::step]
        try:
            at = operator.index(index)
        except TypeError:
            raise TypeError(f"a position in Tokens is an int or a slice; got {named(index)}") from None
        at += len(self) if at < 0 else 0
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
        TypeError: paths are none.
        ValueError: a path is not there, nothing matches, or a file is no data; the message names it.
    """
    folder = text_given(os.fspath(model), "model") if model is not None else ""
    return Tokens(_hetmem.TokenStream(paths_given(paths, "load_tokens"), text_given(glob, "glob"), folder))


def token_stream(data: Any, what: str) -> NDArray[np.int32]:
    """token_array() of a stream, one-dimensional."""
    stream = token_array(data, what)
    if stream.ndim != 1:
        raise ValueError(
            f"{what} are one stream of tokens, an array [n]; got shape {list(stream.shape)} "
            "(batches [sequences, T + 1] go to Trainer.step, one by one)")
    return stream


def are_paths(data: Any) -> bool:
    """A path, or a list of them, rather than token ids; an empty list is one."""
    if isinstance(data, (list, tuple)):
        return len(data) == 0 or isinstance(data[0], (str, os.PathLike))
    return isinstance(data, (str, os.PathLike))


@contextlib.contextmanager
def data_paths(data: Any, what: str, vocabulary: int) -> Iterator[list[str]]:
    """Paths, Tokens or a one-dimensional array of token ids as paths of files, while they are used."""
    if isinstance(data, Tokens):
        yield data.files
        return
    if are_paths(data):
        yield paths_given(data, what)
        return
    import tempfile  # here: it takes longer to import than the rest of this package

    stream = token_stream(data, what)
    with tempfile.TemporaryDirectory(prefix="hetmem-data-") as folder:
        path = os.path.join(folder, "tokens.bin")
        _hetmem.write_tokens(path, stream, vocabulary)
        yield [path]
