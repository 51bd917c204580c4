"""Views whose reading was deferred are read once it takes no more than what is allowed by then."""

from types import SimpleNamespace

import pytest

from synbench_lightning.callbacks.information_inputs import InformationInputs
from synbench_lightning.callbacks.reread_views import READ_SECONDS

TRAINER = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda value: value))


class Budget:
    """Of which some seconds are left."""

    def __init__(self, left):
        self.left, self.limit, self.counts = left, None if left is None else 0.1, 0

    def counted(self):
        return self

    def __enter__(self):
        self.counts += 1

    def __exit__(self, *_):
        pass


class Collection:
    """Takes what is asked of it down."""

    def __init__(self, deferred=True, least_seconds=2.0):
        self.deferred, self.least_seconds, self.begun = deferred, least_seconds, []
        self.collecting, self.inputs, self.sentence = deferred, "views", ""

    def begin(self, trainer, pl_module, call, shape, seconds):
        self.begun.append((shape, seconds))


def inputs(left, **collection):
    own = InformationInputs("auto", 0, "synbench", Budget(left))
    own.collection = Collection(**collection)
    return own


@pytest.mark.parametrize(
    ("left", "deferred", "asked"),
    [
        (1.9, True, []), (2.0, True, [2.0]), (5.0, True, [5.0]), (10 * READ_SECONDS, True, [READ_SECONDS]),
        (5.0, False, []), (None, True, []), (-1.0, True, []),
    ],
)  # fmt: skip
def test_reading_waits_for_the_seconds_that_it_needs_at_least(left, deferred, asked):
    own = inputs(left, deferred=deferred)
    own.read_deferred(TRAINER, None, None, None)
    assert own.collection.begun == [(None, seconds) for seconds in asked]
    assert own._budget.counts == len(asked)


def test_the_shape_is_that_of_the_probe_which_gets_the_views_once_they_are_complete():
    probe = SimpleNamespace(given_shape=(3, 4), shown=None)
    own = inputs(5.0)
    own.read_deferred(TRAINER, None, None, probe)  # deferred again
    assert own.collection.begun == [((3, 4), 5.0)]
    assert probe.shown is None
    own.collection.collecting, own.collection.inputs = False, None
    own.use(probe)
    assert probe.shown is None
    own.use(None)  # no probe yet


@pytest.mark.parametrize("limited", [False, True])
def test_reading_begins_at_once_unless_the_overhead_is_limited(limited):
    own = inputs(1.0 if limited else None)
    assert own.begin(TRAINER, None, None, (3, 4)) == "views"
    assert own.collection.begun == [((3, 4), None if limited else READ_SECONDS)]
    assert own._budget.counts == 1


def test_an_encoder_that_refuses_the_views_has_none_or_ends_the_run_if_nothing_else_is_measured():
    own, error = inputs(None), ValueError("no batch of 80")
    own.collection.discard = lambda reason: reason
    probe = SimpleNamespace(shown="views", num_forwards=512)
    said = "`synbench/information` is not measured on training examples: no batch of 80"
    assert own.discard(probe, error) == said
    assert probe.shown is None
    probe = SimpleNamespace(shown="views", num_forwards=0)
    with pytest.raises(ValueError, match="no batch of 80"):
        own.discard(probe, error)


def test_given_inputs_take_nothing_from_a_checkpoint_and_collected_ones_do():
    for given, state, restored in (("auto", {"views": 1}, [1]), ("auto", {}, []), ([1.0], {"views": 1}, [])):
        own, found = InformationInputs(given, 0, "synbench", Budget(None)), []
        own.collection = SimpleNamespace(restore=found.append)
        own.restore(state)
        assert found == restored
