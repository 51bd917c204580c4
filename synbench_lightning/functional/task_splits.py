"""Task splits: assign each token, patch, coefficient or example of an upstream task to one of several tasks.

Each returns the ``tasks`` of :func:`~synbench_lightning.functional.minimax.task_means`:

====================================== ======================================================================
masked tokens by word frequency        ``of_tokens(labels, by_frequency(counts, 4))``
masked tokens by word class            ``of_tokens(labels, by_class({17: "noun", 42: "verb"}, 30_000)[0])``
tokens by position                     ``by_place((128,), (4,))``, with losses ``(N, 128)``
patches or pixels by region            ``by_place((14, 14), (2, 2)).flatten()``, with losses ``(N, 196)``
coefficients by frequency band         ``by_octave((32, 32), 4)``, with :func:`cosine_transform` of the error
patches by texture                     ``of_values(texture_energy(patches), edges)``
patches or examples by content         ``of_features(features, centres)``
examples by domain                     the index of the domain ``(N, 1)``, with losses ``(N, T)``
several losses of one module           none: pass ``torch.stack([one, other])`` to the loss
====================================== ======================================================================

Compute tables, ``edges`` (:func:`quantiles`) and ``centres`` (:func:`cluster_centres`) once, from a sample of the data,
never from a batch: otherwise the same patch would be in another task in the next batch or on another process. Keep
them with ``self.register_buffer``: they then move with the module, are in its checkpoints, and DDP broadcasts those of
the first process. A task of -1 means no task: its losses, such as of a token that was not masked, are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from synbench_lightning.checks import check_integer, check_integers, check_name, shown
from synbench_lightning.functional.benchmark.clustering import k_means

OTHER = "other"
"""The class of tokens that have none."""


def by_frequency(counts: Tensor | Sequence[int], num_tasks: int) -> Tensor:
    """Split tokens by frequency; each task has about the same fraction of all occurrences.

    Args:
        counts: ``(V,)`` occurrences of each token of the vocabulary in the training data.
        num_tasks: number of tasks ``k``.

    Returns:
        ``(V,)`` task of each token, long: 0 for the most frequent, ``k - 1`` for the rarest, including those that do
        not occur. Equally frequent tokens are ordered by their ids.

    Raises:
        ValueError: for counts that are negative or not finite, or where fewer than k tokens occur.

    Example:
        >>> by_frequency([50, 3, 30, 0, 17], num_tasks=3)
        tensor([0, 2, 1, 2, 2])
    """
    check_integer("num_tasks", num_tasks, 1)
    numbers = torch.as_tensor(counts, dtype=torch.float64).cpu()
    if numbers.ndim != 1 or not bool((numbers.isfinite() & (numbers >= 0)).all()):
        raise ValueError(f"`counts` must be a number of occurrences for each token, 0 or more, got {shown(counts)}.")
    order = numbers.argsort(descending=True, stable=True)
    occurring = int((numbers > 0).sum())
    if occurring < num_tasks:
        raise ValueError(f"`num_tasks` must be at most the number of tokens that occur, {occurring}, got {num_tasks}.")
    table = torch.full(numbers.shape, num_tasks - 1)
    # A task takes its part of what remains, so that one very frequent token leaves no task empty.
    task, taken, left = 0, 0.0, float(numbers.sum())
    for place, token in enumerate(order[:occurring].tolist()):
        table[token] = task
        taken += float(numbers[token])
        needed = num_tasks - 1 - task
        if needed and (taken >= left / (needed + 1) or occurring - place - 1 == needed):
            task, left, taken = task + 1, left - taken, 0.0
    return table


def by_class(classes: Mapping[int, str], vocabulary_size: int) -> tuple[Tensor, tuple[str, ...]]:
    """Split tokens by a class from a lexicon or a tagger, such as their part of speech.

    Args:
        classes: class of each token that has one, as ``{id: lexicon[word] for word, id in vocabulary.items() if word in
            lexicon}``.
        vocabulary_size: number of tokens ``V``.

    Returns:
        ``(V,)`` task of each token, long, and the names of the tasks: the classes in alphabetical order, then
        ``"other"`` where tokens are left.

    Raises:
        ValueError: for no class at all, a token outside the vocabulary, or a class that cannot be logged.

    Example:
        >>> by_class({0: "verb", 1: "noun", 3: "noun"}, vocabulary_size=4)
        (tensor([1, 0, 2, 0]), ('noun', 'verb', 'other'))
    """
    check_integer("vocabulary_size", vocabulary_size, 1)
    if not isinstance(classes, Mapping) or not classes:
        raise ValueError(f"`classes` must map tokens to their class, at least one, got {shown(classes)}.")
    # Sorted, since the order of a set of strings differs between processes.
    names = sorted({check_name("classes", name) for name in classes.values()} - {OTHER})
    table = torch.full((vocabulary_size,), len(names))
    for token, name in classes.items():
        if check_integer("classes", token, 0) >= vocabulary_size:
            raise ValueError(
                f"`classes` must be of tokens below {vocabulary_size}, the vocabulary's size, got {token}."
            )
        table[token] = names.index(name) if name != OTHER else len(names)
    return table, (*names, OTHER) if bool((table == len(names)).any()) else tuple(names)


def by_place(sizes: Sequence[int], parts: Sequence[int]) -> Tensor:
    """Split the positions of a sequence or a grid into parts of about the same size.

    Args:
        sizes: ``(n_1, ...)`` number of positions along each axis: ``(tokens,)``, or ``(rows, columns)`` of patches.
        parts: number of parts along each axis, at most as many as positions.

    Returns:
        ``sizes`` task of each position, long, counted along the last axis first.

    Example:
        >>> by_place((2, 4), (1, 2))
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1]])
    """
    if len(sizes) != len(parts) or not len(sizes):
        raise ValueError(f"`parts` must be a number for each axis of `sizes`, {shown(sizes)}, got {shown(parts)}.")
    tasks = torch.zeros((), dtype=torch.long)
    for size, number in zip(sizes, parts, strict=True):
        if check_integer("sizes", size, 1) < check_integer("parts", number, 1):
            raise ValueError(f"`parts` must be at most `sizes`, {shown(sizes)}, on each axis, got {shown(parts)}.")
        tasks = tasks[..., None] * number + torch.arange(size) * number // size
    return tasks


def by_octave(sizes: Sequence[int], num_tasks: int) -> Tensor:
    """Split the coefficients of :func:`cosine_transform` by octaves of their highest frequency.

    The last task has the upper half of the frequencies on some axis, the one before the next quarter, and the first
    all that is slower.

    Args:
        sizes: number of frequencies along each axis.
        num_tasks: number of tasks ``k``.

    Returns:
        ``sizes`` task of each coefficient, long.

    Raises:
        ValueError: for more tasks than the longest axis has octaves.

    Example:
        >>> by_octave((8,), num_tasks=3)
        tensor([0, 0, 1, 1, 2, 2, 2, 2])
    """
    longest = max(check_integer("sizes", size, 1) for size in sizes)
    if check_integer("num_tasks", num_tasks, 1) > (most := 1 + math.floor(math.log2(longest))):
        raise ValueError(f"`num_tasks` must be at most {most} for `sizes` {shown(sizes)}, got {num_tasks}.")
    highest = torch.zeros((), dtype=torch.float64)  # frequency over all axes, as a fraction of the largest
    for size in sizes:
        highest = torch.maximum(highest[..., None], torch.arange(size) / size)
    return torch.bucketize(highest, 0.5 ** torch.arange(num_tasks - 1, 0, -1), right=True)


def cosine_transform(x: Tensor, axes: int = 2) -> Tensor:
    """Compute the orthonormal discrete cosine transform (type II) along the last axes; it preserves sums of squares.

    Args:
        x: ``(..., n_1, ..., n_axes)`` floating-point numbers.
        axes: how many of the last axes, at least 1.

    Returns:
        Coefficients of the same shape, of rising frequency along each axis.

    Example:
        >>> cosine_transform(torch.ones(1, 4, 4))[0, 0]
        tensor([4., 0., 0., 0.])
    """
    for axis in range(-check_integer("axes", axes, 1), 0):
        size = x.shape[axis]
        frequency = torch.arange(size, dtype=torch.float64)[:, None]
        waves = torch.cos(math.pi / size * frequency * (torch.arange(size) + 0.5)) * math.sqrt(2 / size)
        waves[0] /= math.sqrt(2)
        x = (x.movedim(axis, -1) @ waves.to(x).T).movedim(-1, axis)
    return x


def image_patches(images: Tensor, size: int) -> Tensor:
    """Cut images ``(N, C, H, W)`` into square patches ``(N, T, C, size, size)``, row by row.

    Raises:
        ValueError: for images that are not made of whole patches.

    Example:
        >>> image_patches(torch.randn(8, 3, 32, 32), 4).shape
        torch.Size([8, 64, 3, 4, 4])
    """
    check_integer("size", size, 1)
    if images.ndim != 4 or images.shape[2] % size or images.shape[3] % size:
        raise ValueError(f"`images` must be (N, C, H, W) with H and W multiples of {size}, got {tuple(images.shape)}.")
    cut = images.unfold(2, size, size).unfold(3, size, size)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def texture_energy(patches: Tensor) -> Tensor:
    """Compute the texture energy of a patch: the sum over both axes of the mean squared difference of neighbors.

    Args:
        patches: ``(..., C, H, W)`` floating-point pixels, H and W at least 2.

    Returns:
        ``(...)``, in squared units of the pixels.

    Example:
        >>> texture_energy(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))
        tensor(1.)
    """
    if patches.ndim < 3 or min(patches.shape[-2:]) < 2:
        raise ValueError(f"`patches` must be (..., C, H, W) of 2 x 2 pixels at least, got {tuple(patches.shape)}.")
    pixels = patches.float()
    squares = [pixels.diff(dim=axis).square().mean((-3, -2, -1)) for axis in (-2, -1)]
    return squares[0] + squares[1]


def quantiles(values: Tensor, num_tasks: int) -> Tensor:
    """Compute the quantiles that split a sample of values into ``num_tasks`` equal parts, for :func:`of_values`.

    Args:
        values: sample of any shape, such as the texture energies of some thousand patches.
        num_tasks: number of tasks ``k``, at least 2.

    Returns:
        ``(k - 1,)`` edges, rising, float32, on the device of the values.

    Raises:
        ValueError: where the values are not finite, or so many are equal that a task would be empty.

    Example:
        >>> quantiles(torch.arange(9.0), num_tasks=4)
        tensor([2., 4., 6.])
    """
    check_integer("num_tasks", num_tasks, 2)
    ordered = values.detach().float().flatten().sort().values
    if not len(ordered) or not bool(ordered.isfinite().all()):
        raise ValueError(f"`values` must be finite numbers, at least one, got {shown(values)}.")
    # torch.quantile refuses samples of more than 2**24 values.
    places = torch.arange(1, num_tasks, device=ordered.device) * (len(ordered) - 1) / num_tasks
    low, high = ordered[places.floor().long()], ordered[places.ceil().long()]
    edges = torch.lerp(low, high, places - places.floor())
    if bool((edges.diff() <= 0).any()) or edges[0] <= ordered[0]:
        raise ValueError(
            f"`values` must differ enough for {num_tasks} tasks, but {num_tasks - 1} edges between equal parts are "
            f"{edges.tolist()}: ask for fewer tasks."
        )
    return edges


def cluster_centres(features: Tensor, num_tasks: int, seed: int = 0) -> Tensor:
    """Compute the k-means cluster centers of a sample, for :func:`of_features`.

    Args:
        features: ``(..., D)`` sample of some thousand vectors: pixels of patches (with their mean subtracted, if it is
            a nuisance), or features of examples from an encoder.
        num_tasks: number of tasks ``k``, at most the number of vectors.
        seed: of the initial means.

    Returns:
        ``(k, D)`` centers, float32, on the device of the features; the largest cluster first.

    Raises:
        ValueError: for features that are not finite, or fewer than k.

    Example:
        >>> cluster_centres(torch.tensor([[0.0], [0.2], [9.0], [0.4]]), num_tasks=2)
        tensor([[0.2000],
                [9.0000]])
    """
    check_integer("num_tasks", num_tasks, 1)
    seed = check_integer("seed", seed, 0)
    sample = features.detach().flatten(0, -2).double().cpu()
    if len(sample) < num_tasks or not bool(sample.isfinite().all()):
        raise ValueError(f"`features` must be at least {num_tasks} finite vectors, (..., D), got {shown(features)}.")
    _, cluster = k_means(sample, num_tasks, seed)
    sizes = torch.bincount(cluster, minlength=num_tasks)
    means = sample.new_zeros(num_tasks, sample.shape[1]).index_add(0, cluster, sample) / sizes[:, None]
    return means[sizes.argsort(descending=True, stable=True)].float().to(features.device)


def of_tokens(tokens: Tensor, table: Tensor) -> Tensor:
    """Look up the task of each token, long, of their shape and on their device; -1 for negative (ignored) ones.

    Args:
        tokens: integers below ``V``; negative ones (the -100 of tokens that are not predicted) have no task.
        table: ``(V,)`` task of each token of the vocabulary, from :func:`by_frequency` or :func:`by_class`.

    Example:
        >>> of_tokens(torch.tensor([[2, -100], [0, 1]]), torch.tensor([0, 0, 1]))
        tensor([[ 1, -1],
                [ 0,  0]])
    """
    check_integers("tokens", tokens)
    if not torch.compiler.is_compiling() and tokens.numel() and int(tokens.max()) >= len(table):
        raise ValueError(f"`tokens` must be below {len(table)}, the length of `table`, got {int(tokens.max())}.")
    found = table.to(tokens.device)[tokens.clamp_min(0).long()]
    return torch.where(tokens < 0, -1, found)


def of_values(values: Tensor, edges: Tensor) -> Tensor:
    """Assign each value to the interval between two edges, long, of the values' shape and on their device.

    Args:
        values: any shape.
        edges: ``(k - 1,)``, increasing, from :func:`quantiles`; a value at an edge belongs above it.

    Example:
        >>> of_values(torch.tensor([0.1, 2.0, 7.0]), torch.tensor([2.0, 4.0, 6.0]))
        tensor([0, 1, 3])
    """
    return torch.bucketize(values.detach().float().contiguous(), edges.to(values.device), right=True)


def of_features(features: Tensor, centres: Tensor) -> Tensor:
    """Assign each vector to the nearest cluster center, long, on the features' device.

    Args:
        features: ``(..., D)``.
        centres: ``(k, D)``, from :func:`cluster_centres`.

    Returns:
        ``(...)`` in [0, k).

    Example:
        >>> of_features(torch.tensor([[0.3], [5.0]]), torch.tensor([[0.2], [9.0]]))
        tensor([0, 1])
    """
    if features.shape[-1:] != centres.shape[-1:]:
        raise ValueError(
            f"`features` must be (..., {centres.shape[-1]}), as the centres, got shape {tuple(features.shape)}."
        )
    vectors, middle = features.detach().float(), centres.to(features.device).float()
    # |x - c|² - |x|²; the second term is the same for all centers. Sums of products, since autocast rounds matmuls.
    return torch.stack([(centre * (centre - 2 * vectors)).sum(-1) for centre in middle.unbind()], -1).argmin(-1)
