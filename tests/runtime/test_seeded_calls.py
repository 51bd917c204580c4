"""Everything random in a function is seeded during a call, and is as before afterwards."""

import random
from functools import partial

import numpy as np
import pytest
import torch

from synbench_lightning.runtime.seeded_calls import MOST_ITEMS, reached, seeded, seeder, seeding

KINDS = {
    "torch": (lambda: torch.Generator().manual_seed(5), lambda g: torch.rand(1, generator=g).item()),
    "numpy": (lambda: np.random.default_rng(5), lambda g: g.random()),
    "numpy, of another kind": (lambda: np.random.Generator(np.random.MT19937(5)), lambda g: g.random()),
    "numpy, old": (lambda: np.random.RandomState(5), lambda g: g.rand()),
    "python": (lambda: random.Random(5), lambda g: g.random()),
}
MODULE_LEVEL = np.random.default_rng(5)


class Transform:
    def __init__(self, *inner):
        self.inner, self.count = inner, 0

    def __call__(self, draw):
        self.count += 1
        return [draw(one) for one in self.inner]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hold", ["closure", "default", "partial", "keyword", "attribute", "list", "dict", "method"])
def test_a_generator_is_seeded_wherever_a_function_has_it(kind, hold):
    make, draw = KINDS[kind]
    generator, untouched = make(), make()
    held = {
        "closure": lambda: draw(generator),
        "default": lambda g=generator: draw(g),
        "partial": partial(draw, generator),
        "keyword": partial(lambda g: draw(g), g=generator),
        "attribute": partial(Transform(generator), draw),
        "list": partial(Transform([[generator]]), lambda one: draw(one[0][0])),
        "dict": partial(Transform({"a": generator}), lambda one: draw(one["a"])),
        "method": partial(Transform(generator).__call__, draw),
    }[hold]
    values = []
    for seed in (3, 3, 4):
        with seeded(seed, held):
            values.append(held())
    assert values[0] == values[1] != values[2]
    assert draw(generator) == draw(untouched)


def from_the_module():
    return [MODULE_LEVEL.random() for _ in range(1)]


def test_module_level_names_and_global_generators_are_seeded_too():
    def everything():
        return random.random(), np.random.rand(), torch.rand(1).item(), from_the_module.__call__()

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    values = []
    for seed in (3, 3, 4):
        with seeded(seed, from_the_module):
            values.append(everything())
    assert values[0] == values[1]
    assert all(one != other for one, other in zip(values[0], values[2], strict=True))
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    assert MODULE_LEVEL.bit_generator.state == np.random.default_rng(5).bit_generator.state


def test_attributes_are_as_before_also_where_the_function_fails():
    transform = Transform()

    def failing():
        transform.count, transform.new = 9, 1
        raise KeyError

    with pytest.raises(KeyError), seeded(0, failing):
        failing()
    assert vars(transform) == {"inner": (), "count": 0}


def test_seeds_of_more_than_32_bits_are_taken():
    generators = [make() for make, _ in KINDS.values()]
    for seed in [2**40 + 2**32 + 777] * 2:
        with seeding(*generators) as seed_all:
            seed_all(seed)
            assert generators[3].rand() == np.random.RandomState(777).rand()  # modulo 2**32
            assert np.random.rand() == np.random.RandomState(777).rand()
            assert random.random() == random.Random(seed).random()
            assert torch.equal(generators[0].get_state(), torch.Generator().manual_seed(seed).get_state())
            assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state())
            assert generators[1].bit_generator.state == np.random.PCG64(seed).state
            assert generators[4].random() == random.Random(777).random()
    for generator, (make, draw) in zip(generators, KINDS.values(), strict=True):
        assert draw(generator) == draw(make())


def test_a_seeder_restores_nothing():
    generator = np.random.default_rng(5)
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        seeder({"a": [generator]})(3)
        assert generator.random() == np.random.default_rng(3).random()
        assert random.random() == random.Random(3).random()
        assert np.random.rand() == np.random.RandomState(3).rand()
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(3).get_state())
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


@pytest.mark.parametrize(("items", "found"), [(MOST_ITEMS, True), (MOST_ITEMS + 1, False)])
def test_long_containers_hold_data_and_are_passed_over(items, found):
    generator = random.Random(0)
    for container in ([generator] + [None] * (items - 1), dict.fromkeys(range(items), generator)):
        assert (generator in list(reached(container))) == found


def test_each_object_is_reached_once_and_cycles_end():
    one, generator = Transform(), random.Random(0)
    one.inner = [one, generator, generator, (generator, {generator})]
    assert sum(value is generator for value in reached(one, one)) == 1
    assert list(reached("text", b"bytes", 3, 2.5, int, random)) == []


def test_names_without_a_value_are_passed_over():
    def function():
        return later, of_no_module  # noqa: F821

    assert function in list(reached(function))
    later = 1
    assert later
