"""Which task a token, a patch, a coefficient or an example belongs to."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from synbench_lightning import TaskRobustLoss
from synbench_lightning.functional import task_splits as splits
from synbench_lightning.functional.minimax import task_means

RNG = np.random.default_rng(0)


def test_bytes_are_tokens():
    tokens, table = torch.tensor([[0, 2], [1, 1]], dtype=torch.uint8), torch.tensor([5, 6, 7])
    assert splits.of_tokens(tokens, table).tolist() == [[5, 7], [6, 6]]


def test_tokens_by_frequency_have_equal_shares_of_a_text_and_fall_in_frequency():
    counts = torch.tensor(1e6 / np.arange(1, 5001)).long()[torch.tensor(RNG.permutation(5000))]  # Zipf's law
    table = splits.by_frequency(counts, 4)
    shares = torch.zeros(4).index_add(0, table, counts.float()) / counts.sum()
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.04)  # the most frequent token has a share of .11
    assert all(counts[table == task].min() >= counts[table == task + 1].max() for task in range(3))


@pytest.mark.parametrize("counts", [[100, 1, 1, 0], [1, 1, 1, 0], [5, 5, 900, 0], [1, 2, 3, 4]])
def test_every_task_has_a_token_however_frequent_one_of_them_is(counts):
    table = splits.by_frequency(counts, 3)
    occurring = torch.tensor(counts) > 0
    assert table[occurring].unique().tolist() == [0, 1, 2]
    assert (table[~occurring] == 2).all()


def test_tokens_by_class_have_the_number_of_their_class_in_the_alphabet_in_every_process():
    lexicon = {"run": "verb", "dog": "noun", "red": "adjective", "cat": "noun"}
    vocabulary = {"the": 0, "cat": 1, "red": 2, "dog": 3, "run": 4}
    table, names = splits.by_class({i: lexicon[word] for word, i in vocabulary.items() if word in lexicon}, 5)
    assert names == ("adjective", "noun", "verb", "other")
    assert [names[task] for task in table] == ["other", "noun", "adjective", "noun", "verb"]
    assert splits.by_class({0: "b", 1: "a"}, 2)[1] == ("a", "b")  # none is left
    assert splits.by_class({0: "other", 1: "a"}, 2)[0].tolist() == [1, 0]


def test_labels_that_are_not_to_be_predicted_have_no_task_and_no_loss():
    table = splits.by_frequency([9, 1, 5], 2)
    labels = torch.tensor([[0, -100, 1], [-100, -100, 2]])
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 3)
    means, counts = task_means(losses, splits.of_tokens(labels, table), 2)
    assert counts.tolist() == [1, 2]
    assert means[1].item() == pytest.approx((losses[0, 2] + losses[1, 2]).item() / 2)


def test_places_are_cut_into_equal_parts_along_each_axis():
    table = splits.by_place((6, 9), (2, 3))
    assert [np.unique(table[i : i + 3, j : j + 3]).tolist() for i in (0, 3) for j in (0, 3, 6)] == [
        [t] for t in range(6)
    ]
    assert splits.by_place((7,), (3,)).bincount().tolist() == [3, 2, 2]
    means, counts = task_means(torch.arange(12.0).view(2, 6), splits.by_place((6,), (2,)), 2)
    assert means.tolist() == [4.0, 7.0]
    assert counts.tolist() == [6, 6]


def test_octaves_double_in_frequency_and_the_first_has_the_rest():
    table = splits.by_octave((16, 8), 3)
    highest = np.maximum(np.arange(16)[:, None] / 16, np.arange(8) / 8)
    assert table.tolist() == ((highest >= 0.25).astype(int) + (highest >= 0.5)).tolist()


@pytest.mark.parametrize("shape", [(5, 8, 8), (2, 3, 6, 10)])
def test_the_cosine_transform_is_that_of_scipy(shape):
    x = RNG.normal(size=shape)
    found = splits.cosine_transform(torch.tensor(x))
    np.testing.assert_allclose(found.numpy(), dctn(x, axes=(-2, -1), norm="ortho"), atol=1e-12)
    sound = splits.cosine_transform(torch.tensor(x), axes=1)
    np.testing.assert_allclose(sound.numpy(), dctn(x, axes=(-1,), norm="ortho"), atol=1e-12)


def test_patches_are_those_of_the_image_row_by_row():
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches = splits.image_patches(images, 2)
    assert patches.shape == (2, 6, 3, 2, 2)
    assert torch.equal(patches[1, 4], images[1, :, 2:4, 2:4])


def test_the_energy_of_a_texture_rises_with_contrast_and_frequency_and_not_with_brightness():
    place = torch.arange(8.0)
    slow, fast = (torch.sin(2 * np.pi * place / period).expand(3, 8, 8) for period in (8, 3))
    patches = torch.stack([slow * 0 + 7, slow, fast, 2 * fast, 2 * fast.mT + 7])
    energy = splits.texture_energy(patches)
    assert energy[0] == 0
    assert energy[0] < energy[1] < energy[2] < energy[3]
    torch.testing.assert_close(energy[3], 4 * energy[2])
    torch.testing.assert_close(energy[4], energy[3])


def test_quantiles_are_those_of_numpy_and_cut_values_into_equal_parts():
    values = torch.tensor(RNG.lognormal(size=(100, 50)))
    edges = splits.quantiles(values, 5)
    np.testing.assert_allclose(edges, np.quantile(values, [0.2, 0.4, 0.6, 0.8]), rtol=1e-5)
    tasks = splits.of_values(values.view(50, 100), edges)
    assert tasks.shape == (50, 100)
    assert tasks.flatten().bincount().tolist() == [1000] * 5
    assert torch.equal(tasks, torch.tensor(np.digitize(values.view(50, 100).float(), edges)))


@pytest.mark.parametrize("values", [torch.ones(9), torch.tensor([0.0] * 9 + [1.0]), torch.tensor([0.0] + [1.0] * 9)])
def test_values_that_are_mostly_equal_are_not_cut_into_more_tasks_than_they_have(values):
    with pytest.raises(ValueError, match=r"`values` must differ enough for 3 tasks.*ask for fewer tasks"):
        splits.quantiles(values, 3)


def test_clusters_are_those_of_scikit_learn_and_the_nearest_centre_is_that_of_scipy():
    middles = np.array([[0.0, 0, 5], [6, 0, 0], [0, -7, 1]])
    features = (middles[RNG.integers(3, size=(40, 30))] + RNG.normal(size=(40, 30, 3))).astype(np.float32)
    centres = splits.cluster_centres(torch.tensor(features), 3)
    flat = features.reshape(-1, 3)
    expected = KMeans(3, n_init=5, random_state=0).fit(flat).cluster_centers_
    distance = cdist(centres, expected)
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-4)
    assert sorted(distance.argmin(1)) == [0, 1, 2]
    tasks = splits.of_features(torch.tensor(features), centres)
    assert tasks.flatten().tolist() == cdist(flat, centres).argmin(1).tolist()
    sizes = tasks.flatten().bincount().tolist()
    assert sizes == sorted(sizes, reverse=True)


def test_several_losses_of_one_module_are_tasks_by_being_stacked():
    contrast, masked = torch.tensor(0.5, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    robust = TaskRobustLoss(2)
    robust(torch.stack([contrast, masked])).backward()
    torch.testing.assert_close(torch.stack([contrast.grad, masked.grad]), robust.weights)


def test_examples_by_domain_spread_over_all_their_tokens():
    losses, domain = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([1, 0])
    assert task_means(losses, domain[:, None], 2)[0].tolist() == [6.0, 2.0]


TABLE, EDGES, CENTRES = torch.arange(1000) % 3, torch.tensor([0.1, 1.0]), torch.eye(3, 4)
SPLITS = {
    "tokens": lambda x: splits.of_tokens((100 * x[..., 0]).long(), TABLE),
    "values": lambda x: splits.of_values(x[..., 0], EDGES),
    "features": lambda x: splits.of_features(x, CENTRES),
    "energy": lambda x: splits.of_values(splits.texture_energy(x[..., None].expand(*x.shape, 3)), EDGES),
}


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tasks_are_long_without_gradient_and_one_graph_when_compiled(name, dtype):
    x = torch.randn(5, 6, 4, dtype=dtype, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tasks = SPLITS[name](x)
    assert tasks.dtype == torch.long
    assert torch.equal(torch.compile(SPLITS[name], fullgraph=True, backend="eager")(x), tasks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SPLITS[name](x), tasks)


@pytest.mark.parametrize("name", SPLITS)
def test_a_task_does_not_depend_on_the_batch(name):
    x = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SPLITS[name](x)[3:], SPLITS[name](x[3:]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: splits.by_frequency([3, 0, 0], 2), "at most the number of tokens that occur, 1, got 2"),
        (lambda: splits.by_frequency([3, -1], 1), "`counts` must be a number of occurrences for each token"),
        (lambda: splits.by_class({}, 5), "`classes` must map tokens to their class, at least one, got {}"),
        (lambda: splits.by_class({5: "noun"}, 5), "`classes` must be of tokens below 5, the vocabulary's size, got 5"),
        (lambda: splits.by_class({-1: "noun"}, 5), "`classes` must be an integer of at least 0, got -1"),
        (lambda: splits.by_class({1: "a/b"}, 5), "`classes` must be a non-empty string without '/', got 'a/b'"),
        (lambda: splits.by_place((4, 4), (2,)), r"`parts` must be a number for each axis of `sizes`, \(4, 4\)"),
        (lambda: splits.by_place((4,), (5,)), r"`parts` must be at most `sizes`, \(4,\), on each axis, got \(5,\)"),
        (lambda: splits.by_octave((8, 4), 5), r"`num_tasks` must be at most 4 for `sizes` \(8, 4\), got 5"),
        (lambda: splits.image_patches(torch.ones(1, 3, 9, 8), 4), "H and W multiples of 4, got"),
        (lambda: splits.image_patches(torch.ones(1, 3, 8, 9), 4), "H and W multiples of 4, got"),
        (lambda: splits.image_patches(torch.ones(3, 8, 8), 4), r"`images` must be \(N, C, H, W\)"),
        (lambda: splits.image_patches(torch.ones(1, 3, 8, 8), 0), "`size` must be an integer of at least 1, got 0"),
        (lambda: splits.texture_energy(torch.ones(3, 1, 4)), r"of 2 x 2 pixels at least, got \(3, 1, 4\)"),
        (lambda: splits.quantiles(torch.tensor([torch.nan, 1.0]), 2), "`values` must be finite numbers"),
        (lambda: splits.cluster_centres(torch.ones(2, 4), 3), "`features` must be at least 3 finite vectors"),
        (lambda: splits.of_features(torch.ones(2, 4), torch.ones(3, 5)), r"`features` must be \(..., 5\)"),
        (lambda: splits.of_tokens(torch.tensor([7]), torch.zeros(7)), "`tokens` must be below 7, the length"),
        (lambda: splits.of_tokens(torch.tensor([0.5]), torch.zeros(7)), "`tokens` must be a tensor of integers"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_task_ends_with_the_token_that_fills_its_part_of_what_is_left():
    assert splits.by_frequency([4, 4, 2], 2).tolist() == [0, 0, 1]  # 4 of 10 is less than half
    assert splits.by_frequency([5, 4, 1], 2).tolist() == [0, 1, 1]  # 5 of 10 is half


def test_no_task_is_empty_where_the_lowest_value_is_that_of_half_of_all():
    with pytest.raises(ValueError, match="`values` must differ enough for 2 tasks"):
        splits.quantiles(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0]), 2)
    edges = splits.quantiles(torch.tensor([0.0, 1.0, 1.0, 1.0]), 2)  # the highest may be
    assert splits.of_values(torch.tensor([0.0, 1.0]), edges).tolist() == [0, 1]


def test_patches_of_one_pixel_are_the_pixels():
    images = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(splits.image_patches(images, 1)[..., 0, 0], images.flatten(2).mT)
