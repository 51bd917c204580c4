import warnings

import pytest
import torch

from synbench_lightning import ProbePlan, task_family
from synbench_lightning.probe.batched_encoding import BatchedEncoding, partition_blocks
from synbench_lightning.probe.proxy_samples import Block, Examples, ProxySamples
from synbench_lightning.runtime.collectives import SingleProcess
from tests.threaded_processes import on_processes


@pytest.mark.parametrize("family", ["dc", "default", "natural"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_processes_have_about_as_many_examples_each_and_every_block_once(family, size):
    # Found wrong once: with 85 noise vectors in a cell, in blocks of 64 and 21, every other block was a small one.
    tasks = task_family(family, (1, 8, 8))
    samples = ProxySamples(tasks, ProbePlan(), normalize=None, seed=0, device=torch.device("cpu"))
    blocks = samples.examples(samples.cells).blocks
    found = partition_blocks(blocks, size)
    assert sorted(block for own in found for block in own) == sorted(blocks)
    loads = [sum(block.vectors for block in own) for own in found]
    assert max(loads) <= 1.1 * sum(loads) / size


CPU = torch.device("cpu")
VECTORS = (64, 21, 64, 3)
SIGNS = 2
EXAMPLES = sum(VECTORS) * SIGNS


def numbered():
    """Examples of one number: the row, and half for the minus sign; features ``(rows, signs, 1)`` are the same."""
    rows = torch.tensor([0, *VECTORS]).cumsum(0).tolist()
    blocks = [Block(row, 0, 0, row, vectors) for row, vectors in zip(rows[:-1], VECTORS, strict=True)]

    def write(block, out):
        own = torch.arange(block.row, block.row + block.vectors).float()
        out.copy_(torch.cat([own, own + 0.5])[:, None])

    expected = torch.arange(rows[-1]).float()[:, None, None] + torch.tensor([0.0, 0.5])[:, None]
    return Examples(blocks, rows[-1], SIGNS, write), expected


def encoding(encoder, batch_size=64, processes=None, total=EXAMPLES, progress=None, fixed_size=None):
    processes = processes or SingleProcess()
    read = lambda output, rows, shape: output.flatten(1)  # noqa: E731
    return BatchedEncoding(encoder, read, (1,), CPU, batch_size, total, processes, progress, fixed_size)


@pytest.mark.parametrize("batch_size", [1, 21, 50, 64, 128, 1000])
def test_examples_are_encoded_in_full_batches_and_features_stand_in_their_rows(batch_size):
    examples, expected = numbered()
    seen, done = [], []

    def encoder(x):
        seen.append(x.clone())
        return x

    made = encoding(encoder, batch_size, progress=lambda *told: done.append(told))
    assert torch.equal(made.features(examples), expected)
    sizes = [len(batch) for batch in seen]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == EXAMPLES
    assert done == [(min(batch_size * (turn + 1), EXAMPLES), EXAMPLES) for turn in range(len(sizes))]
    assert torch.equal(made.few(examples, 3), torch.cat(seen)[: min(3, batch_size)])


@pytest.mark.parametrize("lockstep", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_find_the_features_of_one_and_make_as_many_forwards_where_these_are_collective(size, lockstep):
    examples, expected = numbered()
    texts = list(torch.arange(30.0)[:, None].split([9, 4, 16, 1]))

    def work(processes):
        seen, done = [], []

        def encoder(x):
            seen.append(len(x))
            return x

        own = encoding(encoder, 16, processes, progress=lambda *told: done.append(told))
        features = own.features(examples)
        forwards = len(seen)
        chunks = own.features_of(texts)
        return features, forwards, chunks, len(seen) - forwards, done

    found = on_processes(size, work, lockstep)
    for features, _, chunks, _, done in found:
        assert torch.equal(features, expected)
        assert torch.equal(chunks, torch.cat(texts))
        assert {total for _, total in done} <= {EXAMPLES // size}
        assert all(one <= EXAMPLES // size for one, _ in done)
    if lockstep:
        assert len({forwards for _, forwards, *_ in found}) == 1
        assert {forwards for *_, forwards, _ in found} == {-(-4 // size)}
    else:
        assert sum(forwards for *_, forwards, _ in found) == 4


@pytest.mark.parametrize("fixed_size", [None, 16])
def test_where_forwards_are_collective_those_beyond_the_own_examples_are_the_smallest_possible(fixed_size):
    examples, expected = numbered()

    def work(processes):
        seen = []
        own = encoding(lambda x: seen.append(len(x)) or x, 32, processes, fixed_size=fixed_size)
        assert torch.equal(own.features(examples), expected)
        return seen

    plain, lockstep = (on_processes(3, work, collective) for collective in (False, True))
    assert len({len(seen) for seen in plain}) > 1
    assert len({len(seen) for seen in lockstep}) == 1
    for own, seen in zip(plain, lockstep, strict=True):
        assert seen == own + [fixed_size or 1] * (len(seen) - len(own))
    if fixed_size:
        assert {size for seen in lockstep for size in seen} == {fixed_size}


def test_an_error_on_one_process_reaches_all_of_them():
    examples, _ = numbered()

    def work(processes):
        def encoder(x):
            return x / (processes.rank != 1) if processes.rank != 1 else x.reshape(-1, 1000)

        with pytest.raises(RuntimeError) as caught:
            encoding(encoder, processes=processes).features(examples)
        return str(caught.value)

    told = on_processes(3, work)
    assert told[1].startswith("The encoder failed on a batch of shape (64, 1): RuntimeError")
    assert told[0] == told[2] == "Another process failed; its log has the reason."


@pytest.mark.parametrize(("fits", "sizes"), [(8, [16, 8]), (7, [16, 8, 4]), (32, []), (1, [16, 8, 4, 2, 1])])
def test_the_batch_is_halved_for_good_until_it_fits_into_memory(fits, sizes):
    examples, expected = numbered()
    seen = []

    def encoder(x):
        seen.append(len(x))
        if len(x) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    made = encoding(encoder, 32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(made.features(examples), expected)
    assert [str(one.message) for one in caught] == [
        f"The probe ran out of memory: its batch size is now {size}." for size in sizes
    ]
    assert made.batch_size == (sizes or [32])[-1]
    assert max(seen[len(sizes) :]) == made.batch_size


@pytest.mark.parametrize(("lockstep", "batch_size", "forwards"), [(True, 32, 1), (False, 1, 1), (False, 2, 2)])
def test_where_the_batch_cannot_be_smaller_the_error_is_raised(lockstep, batch_size, forwards):
    examples, _ = numbered()
    seen = []

    def encoder(x):
        seen.append(len(x))
        raise RuntimeError("HIP out of memory")

    def work(processes):
        with pytest.raises(RuntimeError, match="out of memory"):
            encoding(encoder, batch_size, processes).features(examples)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on_processes(1, work, lockstep)
    assert len(seen) == forwards


def test_few_examples_are_halved_too():
    seen = []

    def encoder(x):
        seen.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return x

    with pytest.warns(UserWarning, match="batch size is now 5"), pytest.warns(UserWarning, match="now 2"):
        found = encoding(encoder, 256).features_of([torch.arange(10.0)[:, None]])
    assert torch.equal(found, torch.arange(10.0)[:, None])
    assert seen == [10, 5, 2, 2, 2, 2, 2]


def test_an_encoder_of_one_batch_size_is_given_that_size_and_rows_beyond_are_dropped():
    examples, expected = numbered()
    known = set(expected.flatten().tolist())

    def encoder(x):
        assert len(x) == 48
        assert set(x.flatten().tolist()) <= known
        return x

    assert torch.equal(encoding(encoder, 32, fixed_size=48).features(examples), expected)
    assert torch.equal(encoding(encoder, 100, fixed_size=48).features(examples), expected)


def test_chunks_without_a_row_for_each_example_are_encoded_whole_and_others_in_batches():
    seen = []

    def encoder(x):
        if isinstance(x, dict):  # a graph: two examples
            seen.append("graph")
            return x["nodes"].unflatten(0, (2, -1)).mean(1, keepdim=True)
        seen.append(len(x))
        return x

    graph = {"nodes": torch.tensor([0.0, 2.0, 5.0, 7.0])}
    found = encoding(encoder, 4).features_of([torch.arange(5.0)[:, None], graph, torch.ones(2, 1)])
    assert found.flatten().tolist() == [0, 1, 2, 3, 4, 1, 6, 1, 1]
    assert seen == [4, 1, "graph", 2]


def test_numbers_of_half_precision_are_given_in_single_precision():
    kinds = []

    def encoder(x):
        kinds.append({name: value.dtype for name, value in x.items()})
        return x["x"]

    given = {"x": torch.ones(3, 1, dtype=torch.float16), "ids": torch.ones(3, 1, dtype=torch.long)}
    made = encoding(encoder)
    made.features_of([given])
    assert kinds == [{"x": torch.float32, "ids": torch.long}]
    few = made.few_of(given, 2)
    assert {name: (value.dtype, len(value)) for name, value in few.items()} == {
        "x": (torch.float32, 2),
        "ids": (torch.long, 2),
    }
    assert len(made.few_of(given, 5)["x"]) == 3


@pytest.mark.parametrize("largest", [1.5e15, 0.6e-15])
def test_features_whose_squares_leave_the_range_of_float32_are_refused(largest):
    examples, _ = numbered()
    with pytest.raises(ValueError, match=rf"features reach {largest:.0e}, whose square is outside".replace("+", r"\+")):
        encoding(lambda x: torch.full_like(x, -largest)).features(examples)


@pytest.mark.parametrize("largest", [0.9e15, 1.2e-15, 0.0])
def test_other_features_are_taken(largest):
    examples, _ = numbered()
    assert (encoding(lambda x: torch.full_like(x, largest)).features(examples) == largest).all()


@pytest.mark.parametrize("largest", [1e15, 1e-15])
def test_the_limits_of_features_are_taken(largest):
    found = encoding(lambda x: torch.full_like(x, largest, dtype=torch.float64)).features_of([torch.ones(2, 1)])
    assert float(found[0, 0]) == largest


def test_examples_without_finite_features_are_counted():
    examples, _ = numbered()
    with pytest.raises(ValueError, match=f"features are NaN or infinite for 5 of {EXAMPLES} examples"):
        encoding(lambda x: torch.cat([x, x / (x > 2)], 1)).features(examples)  # 0, .5, 1, 1.5, 2


def test_another_reader_is_used_inside_a_context_alone():
    examples, expected = numbered()
    made = encoding(lambda x: x)
    with made.reading(lambda output, rows, shape: 2 * output):
        assert torch.equal(made.features(examples), 2 * expected)
    assert torch.equal(made.features(examples), expected)


def test_one_process_has_all_blocks_in_their_order():
    blocks = numbered()[0].blocks
    assert partition_blocks(blocks, 1) == [blocks]
