"""Which inputs of a training step are two views of the same examples."""

from types import SimpleNamespace

import pytest
import torch

from synbench_lightning.callbacks import step_views
from synbench_lightning.callbacks.step_views import MOST_STEPS, StepViews, views_of_calls
from synbench_lightning.probe.text_views import MOST_TEXTS
from synbench_lightning.probe.view_sampling import INPUT_FORWARDS, MOST_INPUTS
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.input_leaf import InputLeaf
from synbench_lightning.runtime.structures import Arguments

STRATEGY = SimpleNamespace(broadcast=lambda x: x)
TRAINER = SimpleNamespace(strategy=STRATEGY)


def call(*args, **kwargs):
    return Arguments(args, kwargs)


def batch(rows=40, seed=0, size=8):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def values(found):
    return [one.args[0] for one in found]


def test_two_calls_with_inputs_of_one_shape_are_two_views():
    one, other = batch(seed=0), batch(seed=1)
    found = views_of_calls([call(one), call(other), call(batch(seed=2))])
    assert [value is expected for value, expected in zip(values(found), (one, other), strict=True)] == [True, True]


@pytest.mark.parametrize(
    "second", [call(batch()), call(batch(39)), call(batch(size=9)), call(x=batch(seed=1)), call(torch.arange(40))]
)
def test_a_call_with_the_same_input_or_one_of_another_kind_is_no_view_and_a_later_one_may_be(second):
    one = batch()
    assert values(views_of_calls([call(one), second])) == [one]
    last = batch(seed=5)
    found = values(views_of_calls([call(one), second, call(last)]))
    assert found[0] is one
    assert found[1] is last


def test_of_a_list_of_crops_the_first_two_of_the_largest_size_are_views():
    large, small = [torch.randn(4, 3, 8, 8) for _ in range(3)], torch.randn(4, 3, 4, 4)
    found = views_of_calls([call([small, *large])])
    assert [view.args[0][0] is crop for view, crop in zip(found, large[:2], strict=True)] == [True, True]
    assert [len(view.args[0]) for view in found] == [1, 1]
    assert len(views_of_calls([call([small, large[0]])])) == 1


def test_calls_without_an_input_are_taken_as_they_are():
    calls = [call(torch.arange(4)) for _ in range(3)]
    assert views_of_calls(calls) == calls[:2]
    assert views_of_calls([]) == []


def collected(first, second, layout=None, path=("args", 0)):
    own = StepViews(EncoderCall("encoder", input=InputLeaf(path, (8,), 40)), 0)
    own._views, own._layout = [[call(one) for one in first], [call(one) for one in second]], layout
    return own.found(TRAINER)


def noisy(x, seed):
    return x + 0.1 * batch(len(x), seed)


def test_two_calls_in_each_step_give_two_views_of_all_examples():
    steps = [batch(40, seed) for seed in range(3)]
    others = [noisy(x, seed) for seed, x in enumerate(steps, 10)]
    found = collected(steps, others)
    assert (found.examples, found.random_in) == (120, "")
    for view, expected in zip(found.views, (steps, others), strict=True):
        assert torch.equal(view[0].args[0], torch.cat(expected))


def test_calls_that_do_not_belong_together_or_are_not_in_every_step_give_one_view():
    steps = [batch(40, seed) for seed in range(3)]
    for others in ([batch(40, seed) for seed in range(5, 8)], [noisy(x, 9) for x in steps[:2]], []):
        found = collected(steps, others)
        assert len(found.views) == 1
        assert found.examples == min(120, MOST_INPUTS)
        assert torch.equal(found.views[0][0].args[0], torch.cat(steps)[: found.examples])


@pytest.mark.parametrize(("layout", "several"), [("blocks", 2), ("turns", 2), ("blocks", 3), ("turns", 3)])
def test_rows_of_one_call_that_belong_to_one_example_are_views(layout, several):
    examples = [batch(20, seed) for seed in range(3)]
    views = [[noisy(x, 10 * part + seed) for seed, x in enumerate(examples)] for part in range(1, several + 1)]
    together = torch.cat if layout == "blocks" else (lambda parts: torch.stack(parts, 1).flatten(0, 1))
    whole = [together(list(parts)) for parts in zip(*views, strict=True)]
    found = collected(whole, [], (layout, several))
    assert found.examples == 60
    for view, expected in zip(found.views, views[:2], strict=True):
        assert torch.equal(view[0].args[0], torch.cat(expected))
    odd = collected([*whole, batch(20 * several + 1)], [], (layout, several))  # the odd batch is passed over
    assert odd.examples == 60
    assert len(collected(whole, [], (layout, 1)).views) == 1
    assert len(collected(whole, []).views) == 1


class Recording(StepViews):
    """Steps whose calls are given, and whose rows were traced already."""

    def __init__(self, leaf, layout=None):
        super().__init__(EncoderCall("encoder", input=leaf), 0)
        self._given = layout

    def _traced(self, trainer, pl_module, batch):
        return self._given

    def step(self, *calls):
        self._calls = list(calls)
        return self.end(TRAINER, None, None)


VECTORS, TOKENS = InputLeaf(("args", 0), (8,), 8), InputLeaf(("args", 0), (32,), 8, torch.long)


def steps_until_enough(own, *calls):
    for number in range(1, MOST_STEPS + 10):
        if own.step(*calls):
            return number
    return None


@pytest.mark.parametrize(
    ("leaf", "layout", "calls", "examples", "expected"),
    [
        (VECTORS, None, [batch(8)], 8, MOST_INPUTS),
        (VECTORS, None, [batch(8, 0), batch(8, 1)], 8, INPUT_FORWARDS // 2),
        (VECTORS, ("blocks", 2), [batch(16)], 8, INPUT_FORWARDS // 2),
        (VECTORS, ("blocks", 1), [batch(8)], 8, MOST_INPUTS),
        (TOKENS, None, [torch.ones(8, 32, dtype=torch.long)], 8, MOST_TEXTS),
        (None, None, [torch.arange(4)], 1, MOST_INPUTS),
    ],
)
def test_steps_are_recorded_until_there_are_examples_enough(leaf, layout, calls, examples, expected):
    assert steps_until_enough(Recording(leaf, layout), *map(call, calls)) == -(-expected // examples)


def test_recording_ends_after_a_number_of_steps_without_a_call():
    own = Recording(VECTORS)
    assert steps_until_enough(own) == MOST_STEPS
    assert own.steps == MOST_STEPS


@pytest.mark.parametrize(("fitting", "expected"), [(100, 96), (10, 32)])
def test_large_inputs_are_recorded_as_far_as_memory_allows_and_at_least_32(monkeypatch, fitting, expected):
    monkeypatch.setattr(step_views, "PAIR_BYTES", fitting * 8 * 4)
    own, x = Recording(VECTORS), batch(8)
    assert 8 * steps_until_enough(own, call(x), call(noisy(x, 1))) == expected
    found = own.found(TRAINER)
    assert (len(found.views), found.examples) == (2, expected)
