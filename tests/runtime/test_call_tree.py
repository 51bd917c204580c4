"""What can be inferred from the calls of a step: where representations, heads, stages and reconstructions are."""

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.call_tree import Readout
from tests.runtime.test_encoder_ranking import Forward, Of, first, net, recorded, recorded_of

IMAGES = torch.rand(6, 3, 8, 8)


def model_of(forward, x=None, **parts):
    """The tree of a step that calls one model, and its call of it."""
    tree = recorded(lambda m, x: m.model(x).square().mean(), x, model=Of(forward, **parts))
    return tree, tree.calls["model", ""]


def stages(tree, *names):
    return [tree.is_stage(tree.calls[f"model.{name}", ""]) for name in names]


@pytest.mark.parametrize(("width", "part"), [(4, ("down",)), (5, None)])
def test_vectors_are_reconstructed_from_at_most_half_their_width(width, part):
    model = Of(lambda m, x: m.up(m.down(x)), down=nn.Linear(8, width), up=nn.Linear(width, 8))
    assert first(lambda m, x: m.model(x).square().mean(), model=model) == ("model", part)


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_are_reconstructed_from_fewer_positions(stride):
    model = Of(
        lambda m, x: m.up(m.down(x)),
        down=nn.Conv2d(3, 8, stride, stride), up=nn.ConvTranspose2d(8, 3, stride, stride),
    )  # fmt: skip
    found = first(lambda m, x: m.model(x).square().mean(), IMAGES, model=model)
    assert found == ("model", ("down",) if stride == 2 else None)


@pytest.mark.parametrize(("outputs", "encoder"), [(4, "model.net"), (5, "model")])
def test_a_last_layer_that_halves_the_features_for_the_loss_is_a_head(outputs, encoder):
    model = Of(lambda m, x: m.last(m.net(x)), net=nn.Sequential(nn.Linear(8, 8), nn.ReLU()), last=nn.Linear(8, outputs))
    assert first(lambda m, x: m.model(x).square().mean(), model=model) == (encoder, None)


def targets(m, x):
    """A stem, a network behind it, and projections of both for a loss."""
    z = m.stem(x)
    predicted = m.final_proj(m.blocks(z))
    return (predicted - m.target_proj(z)).square().mean()


def squeezed(m, x):
    """A map that is reconstructed, and a classifier of its narrowest part."""
    z = m.mid(m.down(x))
    m.aux_head(z.mean((2, 3)))
    return m.up(z)


def hooked(m, x):
    """Its output is that of a projector, which a hook within its network calls."""
    with m.net[0].register_forward_hook(lambda _, args, z: setattr(m, "kept", m.projector(z))):
        m.net(x)
    return m.kept


L = nn.Linear
READOUTS = {
    "the input of a classifier behind an encoder with a stem": (
        lambda m, x: m.fc(m.encoder(m.stem(x))),
        {"stem": L(8, 8), "encoder": net(8, 8), "fc": L(8, 3)}, Readout("fc"),
    ),
    "the encoder that a decoder with mask tokens is given": (
        lambda m, x: m.pred(m.decoder(m.encoder(m.patch(x)))),
        {"patch": L(8, 8), "encoder": net(8, 8), "decoder": net(8, 8), "pred": L(8, 8)}, Readout(parts=("encoder",)),
    ),
    "the first of heads behind each other": (
        lambda m, x: m.predictor(m.projector(m.b(m.a(x)))),
        {"a": net(8, 8), "b": net(8, 8), "projector": net(8, 8), "predictor": net(8, 8)}, Readout("projector"),
    ),
    "the head of the latest network, not that of targets": (
        targets, {"stem": net(8, 8), "blocks": net(8, 8), "final_proj": L(8, 8), "target_proj": L(8, 8)},
        Readout("final_proj"),
    ),
    "the head, though another branch is computed after it": (
        lambda m, x: m.fc(m.a(x)) + m.c(m.b(x)),
        {"a": net(8, 8), "b": net(8, 8), "c": net(8, 4), "fc": L(8, 4)}, Readout("fc"),
    ),
    "the output of a network by the name of a head": (lambda m, x: m.head(x), {"head": net()}, None),
    "the output of a single layer": (lambda m, x: m.layer(x), {"layer": L(8, 4)}, None),
    "the input of a single layer that takes something else": (
        lambda m, x: m.layer(2 * x),
        {"layer": L(8, 4)},
        Readout("layer"),
    ),
    "the input of a projector that a hook calls": (
        hooked,
        {"net": nn.Sequential(nn.Sequential(L(8, 6), nn.ReLU()), L(6, 3)), "projector": L(6, 5)},
        Readout("projector"),
    ),
    "the output of a network that normalization by the name of a head follows": (
        lambda m, x: m.head(m.net(x)), {"net": net(), "head": nn.LayerNorm(4)}, None,
    ),
    "the input of a narrow last layer without a bias": (
        lambda m, x: m.last(m.net(x)), {"net": net(8, 8), "last": L(8, 4, bias=False)}, Readout("last"),
    ),
    "the output, since the last part is more than a layer": (
        lambda m, x: m.last(m.net(x)), {"net": net(8, 8), "last": nn.Sequential(L(8, 4))}, None,
    ),
    "the output, since features are returned beside those of the last layer": (
        lambda m, x: torch.cat([m.last(z := m.net(x)), z], 1), {"net": net(8, 8), "last": L(8, 4)}, None,
    ),
    "the output, since a layer for every token is none for the loss": (
        lambda m, x: m.last(m.net(x.view(6, 2, 4))), {"net": net(4, 8), "last": L(8, 4)}, None,
    ),
    "the output, since the last layer is not linear": (
        lambda m, x: m.last(m.net(x)[:, None])[:, 0],
        {"net": net(8, 8), "last": nn.Conv1d(1, 1, 3, padding=1)}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READOUTS)
def test_what_is_read_of_a_model(name):
    forward, parts, expected = READOUTS[name]
    tree, model = model_of(forward, **parts)
    assert tree.readout(model) == expected


def test_of_a_reconstructed_map_the_narrowest_part_without_the_name_of_a_head_is_read():
    parts = {"down": nn.Conv2d(3, 8, 2, 2), "mid": nn.Conv2d(8, 8, 2, 2), "aux_head": L(8, 2),
             "up": nn.ConvTranspose2d(8, 3, 4, 4)}  # fmt: skip
    tree, model = model_of(squeezed, IMAGES, **parts)
    assert tree.readout(model) == Readout(parts=("mid", "down"))


def test_of_vectors_the_narrowest_and_of_maps_with_as_many_positions_the_last_is_read():
    parts = {"a": L(8, 2), "b": L(2, 4), "c": L(4, 8)}
    tree, model = model_of(lambda m, x: m.c(m.b(m.a(x))), **parts)
    assert tree.readout(model).parts == ("a", "b")
    maps = {"a": nn.Conv2d(3, 2, 2, 2), "b": nn.Conv2d(2, 9, 1), "c": nn.ConvTranspose2d(9, 3, 2, 2)}
    tree, model = model_of(lambda m, x: m.c(m.b(m.a(x))), IMAGES, **maps)
    assert tree.readout(model).parts == ("b", "a")
    assert stages(tree, "a", "b") == [True, False]


def test_of_a_map_that_is_reconstructed_from_vectors_they_are_read():
    down, up = nn.Sequential(nn.Flatten(), L(192, 4)), nn.Sequential(L(4, 192), nn.Unflatten(1, (3, 8, 8)))
    tree, model = model_of(lambda m, x: m.up(m.down(x)), IMAGES, down=down, up=up)
    assert tree.readout(model) == Readout(parts=("down",))


def test_vectors_come_before_maps():
    maps = {"a": nn.Conv2d(3, 4, 4, 4), "b": nn.Sequential(nn.Flatten(), L(16, 20)), "c": L(20, 192)}
    tree, model = model_of(lambda m, x: m.c(m.b(m.a(x))).view(6, 3, 8, 8), IMAGES, **maps)
    assert tree.readout(model).parts[:2] == ("b", "c")


def test_words_are_predicted_where_the_width_is_the_size_of_the_vocabulary():
    ids = torch.randint(30, (6, 5))
    for step, expected in (
        (lambda m, x: m.net(m.words(x)) @ m.words.weight.T, Readout(parts=("net", "words"))),
        (lambda m, x: (m.net(m.words(x)) @ m.words.weight.T).mean(), None),  # no row for each example
        (lambda m, x: m.net(m.words(x)), None),
    ):
        tree, model = model_of(step, ids, words=nn.Embedding(30, 8), net=net(8, 8))
        assert tree.readout(model) == expected
        assert tree.represents(model) == (expected is None and len(model.shapes[0]) == 3)


def test_a_width_that_is_the_size_of_a_vocabulary_is_no_prediction_for_an_input_of_numbers():
    tree, model = model_of(lambda m, x: m.net(x) + m.words.weight.mean(), net=net(8, 5), words=nn.Embedding(5, 4))
    assert tree.represents(model)


def test_of_a_model_that_predicts_words_the_network_that_takes_the_ids_is_the_encoder():
    inner = Of(lambda m, x: m.net(m.words(x)), words=nn.Embedding(30, 8), net=net(8, 8))
    model = Of(lambda m, x: m.inner(x) @ m.inner.words.weight.T, inner=inner)
    assert first(lambda m, x: m.model(x).mean(), torch.randint(30, (6, 5)), model=model) == ("model.inner", None)


def test_what_comes_from_outside_a_model_is_none_of_its_parts():
    decodes = Of(lambda m, x, z: m.decoder(m.net(m.stem(x)) + z), stem=L(8, 8), net=net(8, 8), decoder=net(8, 8))
    adds = Of(lambda m, x, z: m.net(m.stem(x)) + z, stem=L(8, 8), net=net(8, 8))
    for model, name, expected in ((decodes, "text_encoder", Readout("decoder")), (adds, "projector", None)):
        tree = recorded(
            lambda m, x, name=name: m.model(x, getattr(m, name)(2 * x)).mean(), model=model, **{name: net(8, 8)}
        )
        assert tree.readout(tree.calls["model", ""]) == expected


def test_a_head_is_found_by_what_the_output_was_made_of_where_something_else_is_computed_last():
    def forward(m, x):
        found = m.fc(m.net(x))
        m.late(x)
        return 2 * found

    parts = {"net": net(8, 8), "fc": L(8, 8), "late": net(8, 8)}
    tree, model = model_of(forward, **parts)
    assert tree.readout(model) == Readout("fc")
    tree = recorded_of(Forward(forward, **parts), lambda m, x: m(x))
    assert tree.readout(tree.calls["", ""]) == Readout("fc")


PAIRS = {
    "two views": (lambda m, x, y: (m.net(x) - m.net(y)), lambda x: (x, x.flip(2)), False),
    "two vectors": (lambda m, x, y: m.net(x) * m.gate(y), lambda x: (x.flatten(1), x.flatten(1) + 1), True),
    "an image and its mask": (lambda m, x, y: m.net(x) + y.float().mean(), lambda x: (x, (x > 0.5).int()), True),
    "an image and a vector": (lambda m, x, y: m.net(x) + y.mean(), lambda x: (x, torch.rand(6, 2)), True),
    "two images that are encoded together": (lambda m, x, y: m.net(x - y), lambda x: (x, x.flip(2)), True),
    "two images of which a single layer takes one": (
        lambda m, x, y: m.layer(x).mean((2, 3)) + y.mean(), lambda x: (x, x.flip(2)), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_a_model_of_two_views_returns_no_representation_and_one_with_another_argument_does(name):
    forward, arguments, expected = PAIRS[name]
    parts = {"net": nn.Sequential(nn.Flatten(), L(192, 8)), "gate": nn.Sequential(L(192, 8)),
             "layer": nn.Conv2d(3, 8, 3)}  # fmt: skip
    tree = recorded(lambda m, x: m.model(*arguments(x)).mean(), IMAGES, model=Of(forward, **parts))
    model = tree.calls["model", ""]
    assert tree.represents(model) == expected
    assert tree.readout(model) is None
    assert not any(tree.is_stage(call) for call in tree.calls.values() if call.path in ("model.net", "model.layer"))


def test_a_model_of_two_views_has_nothing_to_be_read_before_its_head():
    model = Of(
        lambda m, x, y: m.projector(m.net(x)) - m.projector(m.net(y)),
        net=nn.Sequential(nn.Flatten(), L(192, 8)), projector=net(8, 8),
    )  # fmt: skip
    tree = recorded(lambda m, x: m.model(x, x.flip(2)).mean(), IMAGES, model=model)
    assert tree.readout(tree.calls["model", ""]) is None


def test_a_list_of_crops_of_one_size_is_no_comparison():
    model = Of(lambda m, crops: torch.cat([m.net(crop) for crop in crops]), net=nn.Sequential(nn.Flatten(), L(192, 8)))
    tree = recorded(lambda m, x: m.model([x, x.flip(2)]).mean(), IMAGES, model=model)
    assert tree.represents(tree.calls["model", ""])
