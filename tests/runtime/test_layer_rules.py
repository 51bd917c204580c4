"""Which modules are layers, for trees of modules that are written down with their weights."""

import pytest

from synbench_lightning.runtime.layer_selection import CalledModule, select_layers

SHAPE = (2, 8, 4, 4)


def tree(**parts):
    """Called modules by name: a kind and weights, and a shape unless it is the usual one; ``_`` is a dot."""
    return [
        CalledModule(name.replace("_", "."), kind, weights, *(shape or [SHAPE]))
        for name, (kind, weights, *shape) in parts.items()
    ]


BLOCKS = {f"net_{name}": ("Block", 10) for name in "abc"}


@pytest.mark.parametrize(
    ("other", "expected"),
    [(29, ["net.a", "net.b", "net.c"]), (30, ["net.a", "net.b", "net.c", "net.x"]), (31, ["net.x.p", "net.x.q"])],
)
def test_three_of_a_kind_with_more_than_half_of_the_weights_are_the_blocks_or_else_the_largest_has_them(
    other, expected
):
    inside = {"net_x_p": ("Conv", other // 2), "net_x_q": ("Linear", other - other // 2)}
    calls = tree(**BLOCKS, **inside, net_x=("Other", other), net=("Net", 30 + other))
    assert list(select_layers(calls)) == expected


def test_two_of_a_kind_are_no_blocks():
    calls = tree(net_a=("Block", 10), net_b=("Block", 10), net_x=("Other", 10), net=("Net", 30))
    assert select_layers(calls) == ("net.a", "net.b", "net.x")


def test_a_large_module_without_called_children_is_a_layer_itself():
    assert select_layers(tree(net_a=("Conv", 1), net_x=("Other", 100), net=("Net", 101))) == ("net.a", "net.x")


def test_wrappers_are_passed_through_and_a_module_with_one_child_only_too():
    calls = tree(**{f"w_v_{name}": ("Block", 5) for name in "abcd"}, w_v=("Inner", 20), w=("Wrapper", 20))
    assert select_layers(calls) == ("w.v.a", "w.v.b", "w.v.c", "w.v.d")
    calls = tree(
        m_stem=("Conv", 1), m_x_v_a=("Block", 5), m_x_v_b=("Block", 5), m_x_v_c=("Block", 5), m_x_v=("Inner", 15),
        m_x=("Wrapper", 15), m_head=("Linear", 2), m=("Net", 18),
    )  # fmt: skip
    assert select_layers(calls) == ("m.x.v.a", "m.x.v.b", "m.x.v.c")


def test_without_a_common_root_the_outermost_are_looked_at():
    assert select_layers(tree(a=("Conv", 3), b=("Linear", 3), c=("Norm", 3))) == ("a", "b", "c")
    assert select_layers([]) == ()


def test_an_activation_after_a_layer_belongs_to_it_where_the_shape_is_the_same():
    calls = tree(n_c=("Conv", 4), n_r=("ReLU", 0), n_p=("Pool", 0, (2, 8, 2, 2)), n_d=("Conv", 4), n=("Net", 8))
    assert select_layers(calls) == ("n.r", "n.d")
    first = tree(n_f=("Flatten", 0), n_c=("Conv", 4), n_d=("Linear", 4), n=("Net", 8))
    assert select_layers(first) == ("n.c", "n.d")
    inside = tree(n_c_k=("Conv", 4), n_c=("Stage", 4), n_r=("ReLU", 0), n_d=("Conv", 5), n=("Net", 9))
    assert "n.r" not in select_layers(inside)


@pytest.mark.parametrize(("number", "most", "expected"), [(5, 5, "01234"), (5, 4, "0134"), (5, 3, "024"), (9, 2, "08")])
def test_of_too_many_some_are_read_at_equal_distances(number, most, expected):
    calls = [CalledModule(f"n.{index}", "Block", 1, SHAPE) for index in range(number)]
    assert select_layers([*calls, CalledModule("n", "Net", number)], most) == tuple(f"n.{one}" for one in expected)
    twelve = [CalledModule(f"n.{index}", "Block", 1, SHAPE) for index in range(13)]
    assert len(select_layers([*twelve, CalledModule("n", "Net", 13)])) == 12


def test_stems_and_heads_are_no_layers_unless_there_is_nothing_else():
    stems = tree(n_stem=("Conv", 4), n_patch=("Conv", 4), n_classifier=("Linear", 4), n_mix=("Linear", 4), n=("N", 16))
    assert select_layers(stems) == ("n.patch", "n.mix")
    assert select_layers(tree(n_stem=("Conv", 4), n_embed=("Linear", 4), n=("N", 8))) == ("n.stem", "n.embed")
    assert select_layers(tree(n_head=("Conv", 4), n_fc=("Linear", 4), n=("N", 8))) == ("n.head", "n.fc")


def test_a_module_whose_parts_have_no_weights_is_a_layer_unless_it_is_the_only_one():
    inner = tree(n_x_r=("ReLU", 0), n_x=("Conv", 4))
    assert select_layers([*tree(n_a=("Conv", 1)), *inner, *tree(n=("Net", 5))]) == ("n.a", "n.x")
    assert select_layers([*inner, *tree(n=("Net", 4))]) == ()  # what it returns is the network's output


def test_blocks_are_found_among_modules_of_other_kinds_and_in_a_root_without_a_name():
    calls = tree(s=("Conv", 7), a=("Block", 4), x=("Norm", 6), b=("Block", 4), c=("Block", 6))
    assert select_layers([*calls, CalledModule("", "Net", 27)]) == ("a", "b", "c")
