"""Ranks of partners and layouts of rows, against closed forms and sets that are known to belong together or not."""

import math

import numpy as np
import pytest
import torch

from synbench_lightning.functional.representation.view_matching import (
    _distribution,
    _pattern,
    _spectrum,
    _values,
    belong_together,
    layout_of,
    mean_partner_rank,
    row_changes,
    rows_of_examples,
)

G = torch.Generator().manual_seed(0)


def test_partners_that_are_the_nearest_have_rank_zero_and_the_farthest_rank_one():
    x = torch.eye(8)
    assert mean_partner_rank(x, x) == 0
    assert mean_partner_rank(x, -x) == 1


def test_ties_count_half():
    x = torch.eye(4)
    assert mean_partner_rank(x, torch.ones(4, 4)) == 0.5  # all similarities are 0


def test_the_rank_is_the_fraction_of_strangers_that_are_nearer():
    x, y = torch.randn(2, 20, 6, generator=G)
    a, b = (rows.double() - rows.double().mean(0) for rows in (x, y))
    cosines = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    expected = sum(int((cosines[i] > cosines[i, i]).sum()) for i in range(20)) / (20 * 19)
    assert mean_partner_rank(x, y) == pytest.approx(expected)


def test_unrelated_rows_have_rank_one_half_with_the_stated_error():
    ranks = torch.tensor([mean_partner_rank(*torch.randn(2, 64, 16, generator=G)) for _ in range(200)])
    assert float(ranks.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(200 * 12 * 64))
    assert float(ranks.std()) == pytest.approx(1 / math.sqrt(12 * 64), rel=0.25)


def test_unrelated_sets_rarely_belong_together():
    found = [belong_together(tuple(torch.randn(2, 64, 3, 8, 8, generator=G))) for _ in range(200)]
    assert sum(found) <= 6


def smooth(number=64):
    coarse = torch.randn(number, 3, 4, 4, generator=G)
    return torch.nn.functional.interpolate(coarse, 16, mode="bilinear")


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x + torch.randn(x.shape, generator=G),
        lambda x: x.flip(3),
        lambda x: x.roll((5, 3), (2, 3)) * 1.2,
        lambda x: torch.nn.functional.interpolate(x[..., 2:12, 4:14], 16, mode="bilinear"),
        lambda x: x.half(),
        lambda x: torch.view_as_complex(torch.stack([x, x.flip(2)], -1)),
    ],
    ids=["noise", "flip", "shift", "crop", "half precision", "complex"],
)
def test_views_of_images_belong_together_and_not_in_another_order(view):
    x = smooth()
    one = x.to(torch.complex64) if view(x).is_complex() else x
    assert belong_together((one, view(x)))
    assert not belong_together((one, view(x).roll(7, 0)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_pictures_in_other_colors_belong_together(channels_last):
    cover = smooth().mean(1, keepdim=True).sigmoid()

    def recolored():
        ground = torch.randn(64, 3, 1, 1, generator=G)
        found = ground + cover * (1 + 3 * torch.rand(64, 3, 1, 1, generator=G))
        return found.movedim(1, -1) if channels_last else found

    one, other = recolored(), recolored()
    assert mean_partner_rank(one, other) > 0.3  # the ground's color is most of what varies
    assert belong_together((one, other))
    assert not belong_together((one, other.roll(7, 0)))


def test_windows_of_a_sound_belong_together():
    time, pitch = torch.arange(4000) / 8000, 200 + 400 * torch.rand(64, 1, generator=G)

    def window():
        return torch.sin(2 * math.pi * (pitch * time + torch.rand(64, 1, generator=G)))[:, None]

    one, other = window(), window()
    assert mean_partner_rank(one, other) > 0.3  # their values have hardly anything in common
    assert belong_together((one, other))
    assert not belong_together((one, other.roll(7, 0)))


def test_masked_tokens_belong_together():
    ids = torch.randint(0, 10_000, (64, 30), generator=G)
    masked = [torch.where(torch.rand(ids.shape, generator=G) < 0.5, 10_000, ids) for _ in range(2)]
    assert belong_together(tuple(masked))
    assert not belong_together((masked[0], masked[1].roll(1, 0)))


def test_rows_are_compared_within_each_pair():
    x = smooth()
    pairs = [(x[:32], x[:32] + 0.1), (x[32:], x[32:] - 0.1)]
    assert belong_together(*pairs)
    assert not belong_together()


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be alike, of two rows at least, got torch.Size\(\[3, 2\]\)"):
        mean_partner_rank(torch.ones(3, 2), torch.ones(4, 2))


EXCHANGED = torch.rand(60, generator=G) < 0.4


@pytest.mark.parametrize("layout", ["blocks", "turns"])
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("mixed", [0.0, 0.3])
def test_the_layout_is_found_also_where_examples_are_mixed(layout, views, mixed):
    rows = rows_of_examples(layout, 60, 60 * views)
    assert sorted(rows.flatten().tolist()) == list(range(60 * views))
    changes = torch.zeros(60 * views)
    for column in rows.T:
        own = EXCHANGED.float() * (1 + torch.rand(60, generator=G))
        changes[column] = (1 - mixed) * own + mixed * own[torch.randperm(60, generator=G)]
    assert layout_of(EXCHANGED, changes) == layout
    assert layout_of(EXCHANGED, changes[torch.randperm(60 * views, generator=G)]) is None


def test_rows_of_which_some_are_no_views_have_no_layout():
    changes = torch.cat([EXCHANGED.float(), torch.zeros(60)])
    assert layout_of(EXCHANGED, changes) is None
    assert layout_of(EXCHANGED, torch.ones(61)) is None
    assert layout_of(torch.ones(60).bool(), torch.ones(120)) is None


def test_rounding_is_no_change():
    x = torch.randn(4, 5, generator=G)
    other = x.clone()
    other[1] *= 1 + 1e-6
    other[2, 0] += 1
    assert (row_changes(x, other) > 0).tolist() == [False, False, True, False]
    assert (row_changes(torch.arange(4)[:, None], torch.tensor([[0], [1], [9], [3]])) > 0).tolist() == [
        False, False, True, False
    ]  # fmt: skip


def test_a_layout_shows_where_rows_change_by_more_than_five_standard_errors_of_both_groups():
    exchanged = torch.arange(20) < 10

    def changes(difference, own, other):
        """Rows of one view whose groups have these deviations and this difference of their means."""
        spread = torch.tensor([1.0, -1.0]).repeat(5)
        return torch.cat([10 + difference + own * spread, 10 + other * spread])

    error = (1.0 / 10 + 0.81 / 10) ** 0.5
    assert layout_of(exchanged, changes(5.1 * error, 1.0, 0.9)) == "blocks"
    assert layout_of(exchanged, changes(4.9 * error, 1.0, 0.9)) is None
    error = (0.01 / 10) ** 0.5
    assert layout_of(exchanged, changes(5.1 * error, 0.1, 0.0)) == "blocks"
    assert layout_of(exchanged, changes(4.9 * error, 0.0, 0.1)) is None


@pytest.mark.parametrize(("changed", "layout"), [(9, "blocks"), (8, None)])
def test_of_exchanged_examples_nine_in_ten_change_where_others_stay(changed, layout):
    changes = torch.zeros(20)
    changes[:changed] = torch.tensor([1e-3, 50.0]).repeat(5)[:changed]
    assert layout_of(torch.arange(20) < 10, changes) == layout


def test_changes_are_mean_squares_of_rows_of_any_kind():
    one = torch.randn(5, 3, 4, generator=G)
    other = one.clone()
    other[2] += 2
    other[4, 0, 0] -= 3
    torch.testing.assert_close(row_changes(one, other), torch.tensor([0, 0, 4, 0, 9 / 12]).double())
    turned = torch.complex(one, one.flip(0))
    expected = (turned - turned.roll(1, 0)).abs().square().flatten(1).mean(1).double() / 2  # of both parts
    torch.testing.assert_close(row_changes(turned, turned.roll(1, 0)), expected, rtol=1e-5, atol=1e-6)


def test_two_rows_are_enough_and_one_is_not():
    assert mean_partner_rank(torch.eye(2), torch.eye(2)) == 0
    with pytest.raises(ValueError, match="of two rows at least"):
        mean_partner_rank(torch.eye(2)[:1], torch.eye(2)[:1])


def test_pairs_count_by_their_rows():
    x = torch.randn(60, 12, generator=G)
    few = torch.randn(4, 12, generator=G)
    assert belong_together((x, x), (few, torch.randn(4, 12, generator=G)))
    assert not belong_together((x, torch.randn(60, 12, generator=G)), (few, few))


def test_layouts_need_examples_of_both_kinds_and_rows_for_each():
    exchanged = torch.tensor([True, False, False])
    assert layout_of(exchanged, torch.tensor([1.0, 0, 0])) == "blocks"
    assert layout_of(exchanged, torch.tensor([1.0, 0, 0, 1.0])) is None
    assert layout_of(torch.zeros(3).bool(), torch.zeros(3)) is None
    assert layout_of(torch.ones(3).bool(), torch.ones(3)) is None
    assert layout_of(torch.tensor([True, True, False]), torch.tensor([1.0, 1, 0])) == "blocks"


def test_values_are_means_of_neighbors_and_token_ids_are_counted():
    rows = torch.randn(3, 2, 8192, generator=G)
    torch.testing.assert_close(
        _values(rows), rows.flatten(1).unflatten(1, (-1, 2)).mean(2).double(), rtol=1e-5, atol=1e-6
    )
    few = torch.randn(3, 2, 5, generator=G)
    torch.testing.assert_close(_values(few), few.flatten(1).double())
    ids = torch.tensor([[1, 5, 1], [4097, 7, 7]])
    counted = _values(ids)
    assert counted.sum(1).tolist() == [3, 3]
    assert (counted[0, 1], counted[0, 5], counted[1, 1], counted[1, 7]) == (2, 1, 1, 2)


def test_a_pattern_is_standardized_and_has_one_channel_for_pictures_alone():
    pictures = torch.randn(4, 3, 6, 6, generator=G)
    found = _pattern(pictures)
    gray = pictures.mean(1).flatten(1).double()
    expected = (gray - gray.mean(1, keepdim=True)) / (gray - gray.mean(1, keepdim=True)).norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(_pattern(5 * pictures.movedim(1, -1) + 7), expected, rtol=1e-4, atol=1e-5)
    assert _pattern(pictures[:, :, 0]).shape == (4, 18)  # of a signal, whose channels may be opposite


def test_a_distribution_is_that_of_each_channel_or_of_all_values():
    signals = torch.randn(4, 2, 65, generator=G)
    expected = np.sort(signals.numpy(), -1)[..., ::2].reshape(4, -1)  # 33 of 65 values
    np.testing.assert_allclose(_distribution(signals).numpy(), expected)
    rows = torch.randn(4, 9, generator=G)
    np.testing.assert_allclose(_distribution(rows).numpy(), np.sort(rows.numpy(), -1))
    assert _distribution(torch.randn(4, 34, 50, generator=G)).shape == (4, 33)
    assert _distribution(torch.randn(4, 33, 50, generator=G)).shape == (4, 33 * 33)
    for moved in (signals.roll(9, -1), signals.flip(-1)):
        torch.testing.assert_close(_distribution(moved), _distribution(signals))


def test_a_spectrum_is_the_mean_periodogram_along_the_last_axis():
    signals = torch.randn(4, 3, 40, generator=G)
    expected = np.log((np.abs(np.fft.rfft(signals.numpy())) ** 2).mean(1))
    np.testing.assert_allclose(_spectrum(signals).numpy(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(_spectrum(signals.roll(7, -1)), _spectrum(signals), rtol=1e-3, atol=1e-3)
    assert _spectrum(torch.randn(4, 3, 400, generator=G)).shape == (4, 64)
    assert _spectrum(torch.zeros(4, 8)).isfinite().all()
