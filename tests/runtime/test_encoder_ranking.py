"""Which of the calls of a training step is the encoder's."""

import pytest
from torch import nn

from synbench_lightning.runtime.call_recorder import Call
from synbench_lightning.runtime.encoder_ranking import rank_encoders


def tree(sizes):
    """Modules by dotted path, each with so many parameters of its own; owners in between are containers."""
    root = nn.Module()
    for path, size in sizes.items():
        *owners, name = path.split(".")
        part = root
        for owner in owners:
            if not hasattr(part, owner):
                part.add_module(owner, nn.Module())
            part = getattr(part, owner)
        part.add_module(name, nn.Linear(size, 1, bias=False))
    return root


def order(*paths, sizes=None, **changed):
    """Paths from the likeliest encoder on, of calls that were made in this order."""
    calls = {path: Call(path, (8,), **changed.get(path.replace(".", "_"), {})) for path in paths}
    return [call.path for call in rank_encoders(calls, tree({path: (sizes or {}).get(path, 100) for path in paths}))]


@pytest.mark.parametrize("head", ["head", "projector", "student_head", "predictorNet", "decoder", "fc", "model.logits"])
def test_a_head_is_no_encoder(head):
    assert order("net", head) == ["net"]


def test_an_encoder_in_a_head_is_one():
    assert order("head.encoder", "head.last") == ["head.encoder"]


@pytest.mark.parametrize("name", ["encoder", "backbone", "trunk", "online_encoder", "visual", "patchEncoder"])
def test_a_name_that_says_encoder_goes_before_one_that_says_nothing(name):
    assert order("first", name, "last") == [name, "first", "last"]


def test_what_says_nothing_is_in_the_order_of_the_calls():
    assert order("b", "a", "c") == ["b", "a", "c"]


@pytest.mark.parametrize("stem", ["embedding", "patch_embed", "stem", "norm", "tokenizer"])
def test_what_stands_before_the_encoder_comes_after_it(stem):
    assert order(stem, "net") == ["net", stem]
    assert order(stem, "inner.blocks") == ["inner.blocks", stem]


def test_what_is_trained_goes_before_its_average_and_before_what_is_not():
    assert order("teacher_encoder", "student_encoder") == ["student_encoder", "teacher_encoder"]
    assert order("encoder", "net", encoder={"trained": False}) == ["net", "encoder"]


def test_what_needs_more_than_an_input_comes_last():
    assert order("encoder", "other", encoder={"missing": ("mask",)}, other={"trained": False}) == ["other", "encoder"]


def test_what_gives_no_features_is_no_encoder():
    assert order("encoder", "net", encoder={"features": False}) == ["net"]


def test_the_outer_goes_before_the_inner():
    assert order("inner.encoder", "encoder") == ["encoder", "inner.encoder"]
    assert order("inner.net", "net") == ["net", "inner.net"]


def test_a_documented_name_goes_before_another_that_says_encoder():
    assert order("trunk", "backbone", "encoder") == ["encoder", "backbone", "trunk"]


@pytest.mark.parametrize(("size", "first"), [(2, "net"), (4, "small")])
def test_a_module_of_less_than_three_hundredths_of_the_largest_beside_it_comes_after_it(size, first):
    assert order("small", "net", sizes={"small": size})[0] == first


def test_a_block_of_a_network_is_not_its_encoder_unless_its_name_says_so():
    class Net(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    root = nn.Module()
    root.net = nn.Module()
    root.net.block, root.net.encoder = nn.Linear(8, 8), nn.Linear(8, 8)
    calls = {path: Call(path, (8,)) for path in ("net.block", "net.encoder")}
    assert [call.path for call in rank_encoders(calls, root)] == ["net.encoder", "net.block"]  # in a container
    root.net = Net()
    root.net.block, root.net.encoder = nn.Linear(8, 8), nn.Linear(8, 8)
    assert [call.path for call in rank_encoders(calls, root)] == ["net.encoder"]


@pytest.mark.parametrize(
    ("shape", "others", "first"),
    [
        ((4, 16), (), "vit"),  # tokens in: the blocks of a vision transformer
        ((64,), (), "vit.encoder"),  # as large as the owner's input: an encoder of its own
        ((4, 16), ("vit.decoder",), "vit.encoder"),  # as in a masked autoencoder
    ],
)
def test_an_inner_encoder_is_a_part_of_one_where_its_input_is_another_and_nothing_decodes(shape, others, first):
    class Owner(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    root = nn.Module()
    root.vit = Owner()
    root.vit.encoder, root.vit.decoder = nn.Linear(8, 8), nn.Linear(8, 8)
    calls = {"vit.encoder": Call("vit.encoder", shape), **{path: Call(path, (8,)) for path in others}}
    calls["vit"] = Call("vit", (1, 8, 8) if shape != (4, 16) else (1, 10, 10))
    assert rank_encoders(calls, root)[0].path == first
