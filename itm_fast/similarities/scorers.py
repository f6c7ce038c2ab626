"""Where similarities come from, one tile at a time: a matrix, two sets of embeddings, or any callable."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.ops.ranking import dot_products

Array: TypeAlias = torch.Tensor | npt.NDArray[np.generic]
IntArray: TypeAlias = npt.NDArray[np.int64]


class Tile(Protocol):
    """A callable that scores a tile of the similarity matrix.

    It is called with two slices whose start and stop are plain integers (step None) and returns the similarities of
    these images and captions, (rows.stop - rows.start, columns.stop - columns.start), as a tensor or array. It may be
    called for any tile, in any order, and more than once for the same pairs.
    """

    def __call__(self, rows: slice, columns: slice, /) -> Array:
        """Similarities of the images in ``rows`` and the captions in ``columns``."""
        ...


@runtime_checkable
class TileScorer(Protocol):
    """A tile callable that knows the size of its matrix."""

    @property
    def n_images(self) -> int:
        """Rows of the whole matrix."""
        ...

    @property
    def n_captions(self) -> int:
        """Columns of the whole matrix."""
        ...

    def __call__(self, rows: slice, columns: slice, /) -> Array:
        """Similarities of the images in ``rows`` and the captions in ``columns``."""
        ...


def owners_of(scorer: object) -> IntArray | None:
    """(n_captions,) the image of each caption where a scorer knows, as that of a model on a data set; else None."""
    owners: IntArray | None = getattr(scorer, "owners", None)
    return owners


Sims: TypeAlias = Array | tuple[Array, Array] | TileScorer | Tile


class MatrixScorer:
    """Tiles of a matrix that exists already, also a memory-mapped one."""

    def __init__(self, sims: Array) -> None:
        """Keep ``sims`` (n_images, n_captions), any real dtype, without a copy."""
        if sims.ndim != 2:
            raise ValueError(f"sims has shape {tuple(sims.shape)}, expected (n_images, n_captions)")
        _check_plain("sims", sims)
        self.sims = sims
        self.n_images, self.n_captions = (int(n) for n in sims.shape)

    def __call__(self, rows: slice, columns: slice, /) -> Array:
        """A view of the matrix."""
        return self.sims[rows, columns]


class UnitVectors:
    """Vectors, (..., dim), read at length 1, those that are asked for and no others; a vector of zeros stays one.

    The array itself, also a memory-mapped one, is neither changed nor copied.
    """

    def __init__(self, vectors: Array) -> None:
        """Keep ``vectors``, any real dtype, without a copy."""
        self.vectors = vectors

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array."""
        return tuple(self.vectors.shape)

    @property
    def ndim(self) -> int:
        """Axes of the array."""
        return self.vectors.ndim

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: slice | IntArray, /) -> torch.Tensor:
        """Some of them, float32 or float64."""
        some = as_float_tensor(self.vectors[index])
        lengths = torch.linalg.vector_norm(some, dim=-1, keepdim=True, dtype=torch.float64)
        unit: torch.Tensor = some / lengths.masked_fill(lengths == 0, 1)
        return unit.to(some.dtype)


Vectors: TypeAlias = Array | UnitVectors


class DotProductScorer:
    """Tiles of ``images @ captions.T``: cosine similarity if the embeddings are normalised."""

    def __init__(self, images: Vectors, captions: Vectors) -> None:
        """Keep the embeddings, (n_images, dim) and (n_captions, dim), without a copy.

        Args:
            images: of the images.
            captions: of the captions.
        """
        for name, embeddings in (("images", images), ("captions", captions)):
            if embeddings.ndim != 2:
                raise ValueError(f"{name} has shape {tuple(embeddings.shape)}, expected (n_{name}, dim)")
            _check_plain(name, embeddings)
        if images.shape[1] != captions.shape[1]:
            raise ValueError(
                f"images has dim {images.shape[1]}, but captions has dim {captions.shape[1]}; a pair of embeddings is "
                "images (n_images, dim) and captions (n_captions, dim)"
            )
        self.images, self.captions = images, captions
        self.n_images, self.n_captions = int(images.shape[0]), int(captions.shape[0])

    def normalised(self) -> DotProductScorer:
        """The same embeddings compared by cosine."""
        return DotProductScorer(unit_vectors(self.images), unit_vectors(self.captions))

    def __call__(self, rows: slice, columns: slice, /) -> torch.Tensor:
        """The dot products of a tile, in at least float32."""
        # Half precision is widened first: its products overflow at 65,504 and tie where float32 does not.
        images, captions = _read(self.images[rows]), _read(self.captions[columns])
        dtype = torch.promote_types(images.dtype, captions.dtype)
        captions = captions.to(device=images.device, dtype=dtype)
        with torch.autocast(images.device.type, enabled=False):
            return dot_products(images.to(dtype), captions)


def _check_plain(name: str, values: Vectors) -> None:
    """Refuse arrays that hold more, or less, than a number a place."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask nothing here reads: say what stands there, filled(...)")
    if isinstance(values, torch.Tensor) and values.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of layout {values.layout}, expected a dense one: to_dense()")


def unit_vectors(vectors: Vectors) -> UnitVectors:
    """Vectors (..., dim) at length 1; those that are already so are themselves."""
    return vectors if isinstance(vectors, UnitVectors) else UnitVectors(vectors)


class _SizedTile:
    """A bare callable with the sizes the user gave."""

    def __init__(self, tile: Tile, n_images: int, n_captions: int) -> None:
        self._tile = tile
        self.n_images, self.n_captions = n_images, n_captions

    def __call__(self, rows: slice, columns: slice, /) -> Array:
        return self._tile(rows, columns)


def as_scorer(sims: Sims, n_images: int | None = None, n_captions: int | None = None) -> TileScorer:
    """The tile scorer of whatever a user may pass as ``sims``.

    Args:
        sims: (n_images, n_captions) tensor or array; a pair (images (n_images, dim), captions (n_captions, dim)) of
            embeddings; or a callable (rows, columns) -> tile.
        n_images: size for a callable without the attribute ``n_images``; otherwise checked.
        n_captions: likewise.

    Returns:
        An object with ``n_images``, ``n_captions`` and ``__call__(rows, columns)``.

    Raises:
        TypeError: anything else.
        ValueError: wrong shapes, missing or contradicting sizes.

    Example:
        >>> as_scorer((torch.eye(2), torch.eye(2)))(slice(0, 1), slice(0, 2))
        tensor([[1., 0.]])
    """
    scorer: TileScorer
    if isinstance(sims, (torch.Tensor, np.ndarray)):
        scorer = MatrixScorer(sims)
    elif isinstance(sims, tuple):
        scorer = _pair_scorer(sims)
    elif isinstance(sims, TileScorer):
        scorer = sims
    elif callable(sims):
        if n_images is None or n_captions is None:
            raise ValueError("sims is a callable without n_images and n_captions: pass n_images=... and n_captions=...")
        return _SizedTile(sims, n_images, n_captions)
    else:
        raise TypeError(
            f"sims is a {type(sims).__name__}, expected a (n_images, n_captions) tensor or array, a pair of "
            "embeddings (images, captions), or a callable (rows, columns) -> tile"
        )
    for name, given, known in (("n_images", n_images, scorer.n_images), ("n_captions", n_captions, scorer.n_captions)):
        if given is not None and given != known:
            raise ValueError(f"{name} is {given}, but sims has {known}")
    return scorer


def _pair_scorer(sims: tuple[Array, ...]) -> DotProductScorer:
    if len(sims) != 2 or not all(isinstance(part, (torch.Tensor, np.ndarray)) for part in sims):
        kinds = ", ".join(type(part).__name__ for part in sims)
        raise TypeError(f"sims is a tuple ({kinds}), expected a pair of tensors or arrays (images, captions)")
    return DotProductScorer(sims[0], sims[1])


def as_float_tensor(values: Array) -> torch.Tensor:
    """The values as a tensor of float32 or float64; a copy only where dtype or storage demand one.

    Args:
        values: tensor or array of real numbers.

    Returns:
        float32 for float32 and narrower floats, float64 for float64 and integers.

    Raises:
        TypeError: complex, boolean or object values.
    """
    if isinstance(values, np.ndarray):
        values = _tensor_of_array(values)
    if values.dtype in (torch.float32, torch.float64):
        return values.detach()
    if values.is_floating_point():
        return values.detach().float()
    if values.dtype == torch.bool or values.is_complex():
        raise TypeError(f"similarities and embeddings are real numbers, given dtype {values.dtype}")
    return values.double()


class _Lent:
    """An array that says it may be written to: torch takes no other without a warning."""

    def __init__(self, values: npt.NDArray[np.generic]) -> None:
        self._values = values  # lives as long as whoever has it
        described = values.__array_interface__
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}


def _read(values: Array) -> torch.Tensor:
    """As ``as_float_tensor``, but a part of a memory map is where it lies, and must not be written to.

    Copied first, as it would be there, a gallery takes a third longer to search.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and not values.flags.writeable and values.size:
        values = np.asarray(_Lent(values))
    return as_float_tensor(values)


def _tensor_of_array(values: npt.NDArray[np.generic]) -> torch.Tensor:
    if values.dtype.kind not in "fiu":
        raise TypeError(f"similarities and embeddings are real numbers, given dtype {values.dtype}")
    if values.dtype.kind in "iu" or values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    # torch shares neither foreign byte order nor negative strides, and warns about read-only memory maps.
    shareable = values.dtype.isnative and values.flags.writeable and all(stride >= 0 for stride in values.strides)
    return torch.from_numpy(values if shareable else np.array(values, dtype=values.dtype.newbyteorder("=")))
