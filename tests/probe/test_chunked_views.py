"""Views of token ids, integer pictures, structures and batches of another kind."""

import numpy as np
import pytest
import torch

from synbench_lightning import evaluate
from synbench_lightning.functional.representation.information import instance_information
from synbench_lightning.probe import chunked_views
from synbench_lightning.probe.chunked_views import ChunkedViews, drawn_chunks, given_chunks
from synbench_lightning.probe.view_sampling import check_enough, num_draws, random_view, view_warnings
from synbench_lightning.probe.views import GivenViews, viewed_inputs
from tests.probe.test_noisy_inputs import SMALL

CPU = torch.device("cpu")
G = torch.Generator().manual_seed(0)


def ids(rows=40, tokens=6):
    return torch.randint(1, 50, (rows, tokens), generator=torch.Generator().manual_seed(1))


def masked(batch):
    tokens = batch["ids"]
    return {**batch, "ids": torch.where(torch.rand(tokens.shape) < 0.3, 0, tokens)}


@pytest.mark.parametrize(
    ("inputs", "draws"), [(1, 64), (32, 64), (33, 32), (64, 32), (65, 16), (128, 16), (129, 8), (2048, 1)]
)
def test_as_many_views_are_drawn_as_2048_forwards_allow_in_powers_of_two(inputs, draws):
    assert num_draws(inputs) == draws


@pytest.mark.parametrize(("chunk", "entropy"), [(0, [5, 3]), (2, [5, 3, 2])])
def test_the_views_of_a_seed_are_the_same_in_every_version(chunk, entropy):
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    x, generator = torch.ones(2, 3), torch.Generator().manual_seed(state // 2)
    found = random_view(lambda batch: batch + torch.randn(2, 3), x, seed=5, draw=3, chunk=chunk)
    assert torch.equal(found, x + torch.randn(2, 3, generator=generator))


def test_the_first_128_examples_of_a_structure_are_viewed_each_time_with_another_seed():
    given = {"ids": ids(200), "length": torch.full((200, 1), 6)}
    found = drawn_chunks(given, masked, seed=5)
    assert (found.num_inputs, found.draws, found.kind) == (128, 16, "views")
    assert len({view[0]["ids"].numpy().tobytes() for view in found.views}) == 16
    for (view,) in found.views:
        assert torch.equal(view["length"], given["length"][:128])
        kept = view["ids"] != 0
        assert torch.equal(view["ids"][kept], given["ids"][:128][kept])
        assert 0.2 < 1 - kept.double().mean() < 0.4
    again, other = drawn_chunks(given, masked, seed=5), drawn_chunks(given, masked, seed=6)
    assert again.identity == found.identity != other.identity
    assert found.identity.endswith(")")
    assert ": 128 in 16 views (" in found.identity


def graphs(number):
    """Batches whose tensors have a row for each node, not for each example."""
    return [{"nodes": torch.randn(9, generator=torch.Generator().manual_seed(1))} for _ in range(number)]


def dropped(batch):
    return {"nodes": batch["nodes"][torch.rand(9) < 0.7]}


def test_batches_without_rows_are_all_viewed_each_with_a_seed_of_its_own_and_may_change_their_length():
    found = drawn_chunks(graphs(30), dropped, seed=0)
    assert (found.num_inputs, found.draws) == (30, 16)
    first = found.views[0]
    assert not torch.equal(first[0]["nodes"], first[1]["nodes"])  # though the batches are alike
    assert {len(chunk["nodes"]) for chunk in first} >= {5, 6, 7}
    assert not torch.equal(found.views[1][0]["nodes"], first[0]["nodes"])


def test_integer_pictures_get_rounded_noise_of_seven_tenths_of_their_deviation():
    pictures = (120 + 10 * torch.randn(64, 3, 16, 16, generator=G)).round().to(torch.uint8)
    found = drawn_chunks(pictures, None, seed=0)
    assert (found.kind, found.draws) == ("noise", 32)
    values = torch.stack([view[0] for view in found.views])
    assert values.dtype == torch.uint8
    noise = values.double() - pictures.double()
    assert noise.std().item() == pytest.approx((0.7**2 * pictures.double().var().item() + 1 / 12) ** 0.5, rel=0.01)
    assert abs(noise.mean().item()) < 0.05


def test_integer_pictures_of_one_channel_without_an_axis_for_it_get_noise_too():
    pictures = torch.arange(40 * 8 * 8).view(40, 8, 8) % 251
    assert drawn_chunks(pictures, None, seed=0).kind == "noise"


def test_the_noise_of_a_seed_is_the_same_in_every_version():
    pictures = torch.arange(40 * 8 * 8).view(40, 8, 8) % 251
    found = random_view(chunked_views._rounded_noise, pictures, seed=5, draw=3)
    state = int(np.random.SeedSequence([5, 3]).generate_state(1, np.uint64)[0])
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(state // 2))
    assert torch.equal(found, (pictures + 0.7 * pictures.double().std() * noise).round().long())


def test_noise_stays_within_the_range_of_the_integers():
    pictures = torch.tensor([0, 255], dtype=torch.uint8).repeat(32 * 32).view(32, 1, 8, 8)
    values = torch.stack([view[0] for view in drawn_chunks(pictures, None, seed=0).views]).double()
    dark = values[:, pictures == 0]
    assert dark.min() == 0
    # Half of the noise is cut off, and none of it comes out at the other end.
    assert (dark == 0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (values[:, pictures == 255] == 255).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (dark < 128).double().mean() > 0.9


def test_views_of_integers_that_are_there_are_as_many_as_2048_forwards_allow():
    views = torch.randint(0, 9, (1500, 2, 5), generator=G)
    found = given_chunks(views)
    assert (found.num_inputs, found.draws, found.kind) == (1024, 2, "pairs")
    assert torch.equal(torch.stack([view[0] for view in found.views], 1), views[:1024])
    assert given_chunks(views[:40, :1].repeat(1, 64, 1) + torch.arange(64)[:, None]).num_inputs == 32
    with pytest.raises(ValueError, match="`inputs` must contain at least 32 examples, got 31"):
        given_chunks(views[:31])
    with pytest.raises(ValueError, match="must contain different views of each input, got equal ones"):
        given_chunks(views[:, :1].repeat(1, 3, 1))
    assert given_chunks(torch.arange(2100).view(700, 3, 1)).num_inputs == 682
    third = views[:, :1].repeat(1, 3, 1)
    third[0, 2, 0] += 1
    assert given_chunks(third).draws == 3


@pytest.mark.parametrize("rows", [31, 0])
def test_too_few_examples_are_counted(rows):
    with pytest.raises(ValueError, match=f"`x` must contain at least 32 examples, got {rows}"):
        check_enough("x", rows)
    check_enough("x", 32)
    with pytest.raises(ValueError, match="at least 33"):
        check_enough("x", 32, 33)


@pytest.mark.parametrize(
    ("inputs", "views", "message"),
    [
        (3, masked, "`inputs` must be a tensor .* or a list of batches, got 3"),
        ([], masked, r"or a list of batches, got \[\]"),
        ({"ids": ids(20)}, masked, "`inputs` must contain at least 32 examples, got 20"),
        ({"ids": ids()}, None, r"`inputs` .*ids.* need `views`, since noise cannot be added to them"),
        (ids(), None, r"`inputs` int64\(40, 6\) need `views`"),
        (ids(), lambda x: x, "`views` returned the same view 32 times"),
        (ids(), lambda x: x[1:], r"`views` must keep structure, dtypes and batch size of its input, int64\(40, 6\)"),
        (ids(), lambda x: x.float(), r"`views` must keep .* got float32\(40, 6\)"),
        ({"ids": ids()}, lambda x: x["ids"], "`views` must keep structure"),
        (
            {"ids": ids(), "x": torch.ones(40, 1)},
            lambda x: {**masked(x), "x": x["x"] / torch.arange(40.0)[:, None].clamp_max(3)},
            "`views` returned NaN or infinity in 1 values",
        ),
        (ids(), lambda x: x.no_such_thing, r"`views` failed on a batch of shape \(40, 6\): AttributeError"),
        ({"ids": ids()}, lambda x: x[3], r"`views` failed on a batch .*int64\(40, 6\).*: KeyError"),
    ],
)
def test_what_has_no_views_is_refused(inputs, views, message):
    with pytest.raises(ValueError, match=message):
        drawn_chunks(inputs, views, seed=0)


def test_views_that_hardly_change_the_inputs_are_told_with_by_how_much():
    x = torch.randn(200, 50, generator=G)
    change = torch.randn(x.shape, generator=G)
    assert view_warnings(x, x + 0.05 * change, x) == ()  # half the square of .05 is above a thousandth
    (told,) = view_warnings(x, x + 0.04 * change, x)
    assert told.startswith("Two views of an input differ by only 7.9e-04 of the variance between inputs")
    tokens = ids(100, 50)
    assert view_warnings(tokens, tokens, torch.where(torch.arange(50) < 1, 0, tokens)) == ()
    few = tokens.clone()
    few[0, 0] = 0
    (told,) = view_warnings(tokens, tokens, few)
    assert "differ by only 2.0e-04 of their values" in told
    few[1:5, 0] = 0
    assert view_warnings(tokens, few, tokens) == ()  # a thousandth


def test_views_of_structures_are_judged_by_their_input_unless_something_else_changes():
    def almost(batch):
        tokens = batch["ids"].clone()
        tokens[int(torch.randint(64, ())), 0] += 1
        return {**batch, "ids": tokens}

    def with_mask(batch):
        return {**almost(batch), "attention_mask": (torch.rand(64, 40) < 0.5).long()}

    given = {"ids": ids(64, 40), "attention_mask": torch.ones(64, 40, dtype=torch.long)}
    (told,) = drawn_chunks(given, almost, seed=0).warnings
    assert "of their values" in told
    assert drawn_chunks(given, with_mask, seed=0).warnings == ()


def test_given_views_are_as_many_as_2048_forwards_allow_and_in_single_precision():
    x = torch.randn(300, 9, 4, generator=G, dtype=torch.float64)
    found = viewed_inputs(x, None, (4,), 0, CPU)
    assert isinstance(found, GivenViews)
    assert (found.num_inputs, found.draws, found.kind, found.warnings) == (227, 9, "pairs", ())
    out = torch.empty(227 * 9, 4)
    for block in found.examples.blocks:
        found.write(block, out[block.row : block.row + block.vectors])
    assert torch.equal(out.view(227, 9, 4), x[:227].float())
    with pytest.raises(ValueError, match="must contain different views of each input"):
        viewed_inputs(x[:, :1].repeat(1, 2, 1), None, (4,), 0, CPU)
    with pytest.raises(ValueError, match="already contains 9 views of each input"):
        viewed_inputs(x, lambda batch: batch, (4,), 0, CPU)
    with pytest.raises(ValueError, match="`views` needs `inputs` to sample views of"):
        viewed_inputs(None, lambda batch: batch, (4,), 0, CPU)
    assert viewed_inputs(None, None, (4,), 0, CPU) is None
    assert viewed_inputs(found, None, (4,), 0, CPU) is found


def test_one_view_of_each_input_is_not_several():
    x = torch.randn(40, 1, 4, generator=G)
    assert viewed_inputs(x, None, (1, 4), 0, CPU).kind == "noise"
    with pytest.raises(ValueError, match=r"`inputs` must be a floating-point tensor \(N, 4\)"):
        viewed_inputs(x, None, (4,), 0, CPU)


def test_an_encoder_is_shown_all_views_of_a_structure():
    table = torch.randn(50, 4, generator=G)

    class Texts(torch.nn.Module):
        def forward(self, ids):
            return table[ids].flatten(1)

    given = {"ids": ids(64)}
    found = evaluate(Texts(), None, plan=SMALL, inputs=given, views=masked)
    views = [view[0]["ids"] for view in drawn_chunks(given, masked, seed=0).views]
    features = torch.stack([table[view].flatten(1) for view in views], 1)
    assert found.information == pytest.approx(instance_information(features).item(), rel=1e-5)
    assert found.num_forwards == 2048


class Device:
    """An encoding on another device, which records what it is given."""

    def __init__(self, name):
        self.device, self.given = torch.device(name), []

    def features_of(self, chunks):
        self.given.append(chunks)
        return torch.zeros(sum(map(len, chunks)), 2)


def test_views_are_brought_to_a_device_once_and_stay_there(monkeypatch):
    asked = []
    monkeypatch.setattr(chunked_views, "free_bytes", lambda device: asked.append(device) or 10**12)
    views = given_chunks(ids(40, 6)[:, None] + torch.arange(3)[:, None])
    host, other = Device("cpu"), Device("meta")
    for encoding in (host, host, other, other):
        assert views.features(encoding).shape == (40, 3, 2)
    assert asked == [other.device]
    for encoding in (host, other):
        assert {chunk.device for chunk in encoding.given[0]} == {encoding.device}
        assert all(one is again for one, again in zip(*encoding.given, strict=True))


def test_few_inputs_are_those_of_the_first_view_and_the_first_chunk():
    class Few:
        def few_of(self, chunk, number):
            return chunk[:number]

    chunks = torch.arange(24).view(2, 3, 4)[..., None]
    views = ChunkedViews("views", [list(view) for view in chunks])
    assert (views.num_inputs, views.draws) == (12, 2)
    assert torch.equal(views.few(Few(), 3), chunks[0, 0, :3])


@pytest.mark.parametrize(
    ("rows", "dtype", "warned"),
    [(1, torch.float32, False), (2, torch.float32, True), (2, torch.complex64, False), (2, torch.int64, True)],
)
def test_views_of_one_example_or_of_complex_values_are_not_judged(rows, dtype, warned):
    x = torch.arange(10.0 * rows).view(rows, 10).to(dtype)
    assert bool(ChunkedViews("views", [[x], [x]]).warnings) == warned


def test_views_may_change_the_width_of_their_input_and_hold_single_numbers():
    given = {"ids": ids(40, 9), "temperature": torch.tensor(0.5)}
    views = drawn_chunks(given, lambda batch: {**batch, "ids": masked(batch)["ids"][:, 2:]}, seed=0).views
    assert {view[0]["ids"].shape for view in views} == {(40, 7)}
    with pytest.raises(ValueError, match="`views` must keep structure"):
        drawn_chunks(given, lambda batch: {**masked(batch), "temperature": torch.tensor([0.5])}, seed=0)


def test_one_batch_without_rows_is_not_a_list_of_them():
    for inputs in (graphs(1)[0], []):
        with pytest.raises(ValueError, match=r"`inputs` must be a tensor .* or a list of batches, got"):
            evaluate(lambda batch: batch["nodes"][None], None, plan=SMALL, inputs=inputs, views=dropped)


@pytest.mark.parametrize("number", [1, 2])
def test_batches_without_rows_may_be_few(number):
    assert drawn_chunks(graphs(number), dropped, seed=0).num_inputs == number
