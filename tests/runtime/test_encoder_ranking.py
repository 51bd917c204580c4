"""Which of the calls of a training step is the encoder's, and where in it the representation is."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from synbench_lightning.runtime.call_recorder import CallRecorder
from synbench_lightning.runtime.call_tree import CallTree
from synbench_lightning.runtime.encoder_ranking import rank_encoders
from synbench_lightning.runtime.module_names import is_head, named_like_encoder


def net(inputs=8, outputs=4, width=16):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class Of(nn.Module):
    """Parts by name, and a forward over them."""

    def __init__(self, forward=None, **parts):
        super().__init__()
        self.over = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args):
        return self.over(self, *args)


class Weights(nn.Module):
    """So many weights, and so many outputs."""

    def __init__(self, number, outputs=8):
        super().__init__()
        self.weight, self.outputs = nn.Parameter(torch.zeros(number, 1)), outputs

    def forward(self, x):
        return (x * (1 + self.weight.sum()))[:, : self.outputs]


class Forward(Of, LightningModule):
    """A LightningModule over parts by name, with a forward over them."""


def recorded_of(root, step, x=None):
    """The tree of the calls of a step."""
    recorder = CallRecorder(root)
    step(root, torch.rand(6, 8) if x is None else x)
    return CallTree(recorder.end(), root)


def recorded(step, x=None, **parts):
    """The tree of the calls of a step over some modules."""
    return recorded_of(Forward(**parts), step, x)


def ranked(step, x=None, **parts):
    """Names of the candidates in their order, each with where in it the representation is."""
    tree = recorded(step, x, **parts)
    found = []
    for call in rank_encoders(tree.calls, tree.root):
        readout = tree.readout(call)
        found.append((call.name, readout and (readout.head or readout.parts)))
    return found


def first(step, x=None, **parts):
    return ranked(step, x, **parts)[0]


@pytest.mark.parametrize("head", ["head", "projector", "student_head", "predictorNet", "decoder", "fc", "logits"])
def test_a_head_is_no_encoder(head):
    assert ranked(lambda m, x: getattr(m, head)(m.net(x)), net=net(), **{head: net(4)}) == [("net", None)]


@pytest.mark.parametrize("name", ["encoder", "backbone", "trunk", "online_encoder", "visual", "patchEncoder"])
def test_a_name_that_says_encoder_goes_before_one_that_says_nothing(name):
    found = ranked(lambda m, x: (m.first(x), getattr(m, name)(x)), first=net(), **{name: net()})
    assert [path for path, _ in found] == [name, "first"]


@pytest.mark.parametrize(
    ("path", "head", "encoder"),
    [
        ("encoder_q", False, True), ("encoder_head", True, False), ("head.encoder", False, True),
        ("visual_projection", True, False), ("encoder_to_decoder", True, False), ("projector.0", True, False),
        ("student", False, False), ("vision_model", False, True),
    ],
)  # fmt: skip
def test_the_last_word_that_says_anything_counts(path, head, encoder):
    assert (is_head(path), named_like_encoder(path)) == (head, encoder)


@pytest.mark.parametrize("stem", ["embedding", "patch_embed", "stem", "norm", "tokenizer"])
def test_what_stands_before_the_encoder_comes_after_it(stem):
    found = ranked(lambda m, x: m.net(getattr(m, stem)(x)), net=net(), **{stem: net(8, 8)})
    assert [path for path, _ in found] == ["net", stem]


def test_what_is_trained_goes_before_its_average_and_before_what_is_not():
    def step(m, x):
        return m.frozen_encoder(x), m.teacher_encoder(x), m.head(m.student_encoder(x))

    frozen = net().requires_grad_(False)
    found = ranked(step, head=net(4), teacher_encoder=net(), student_encoder=net(), frozen_encoder=frozen)
    assert [path for path, _ in found] == ["student_encoder", "teacher_encoder", "frozen_encoder"]


def test_of_a_small_and_a_large_module_without_names_the_small_one_comes_later():
    found = ranked(lambda m, x: m.large(m.small(x)), small=nn.Linear(8, 8), large=net(8, 4, 400))
    assert [path for path, _ in found] == ["large", "small"]


def test_a_model_that_returns_features_is_one_and_its_encoder_a_part_of_it():
    model = Of(lambda m, x: m.encoder(m.patches(x)), patches=nn.Linear(8, 8), encoder=net())
    found = ranked(lambda m, x: m.head(m.model(x)), model=model, head=net(4))
    assert [path for path, _ in found] == ["model", "model.encoder"]


@pytest.mark.parametrize("ends", ["decoder", "up"])
def test_a_model_that_reconstructs_is_none_and_its_narrowest_part_is(ends):
    model = Of(lambda m, x: getattr(m, ends)(m.down(x)).view_as(x), down=net(8, 4), **{ends: net(4, 8)})
    assert first(lambda m, x: m.model(x).square().mean(), model=model) == ("model.down", None)


def test_of_a_network_with_skips_the_bottleneck_is_read():
    def forward(m, x):
        one = m.down(x)
        return m.up(torch.cat([one, m.mid(one)], 1))

    unet = Of(
        forward, down=nn.Conv2d(3, 8, 2, 2), mid=nn.Conv2d(8, 8, 3, padding=1), up=nn.ConvTranspose2d(16, 3, 2, 2)
    )
    found = first(lambda m, x: m.unet(x).square().mean(), torch.rand(6, 3, 8, 8), unet=unet)
    assert found[0] == "unet"
    assert found[1][0] == "mid"


def test_what_another_module_is_given_is_no_reconstruction():
    model = Of(lambda m, x: m.two(m.one(x)), one=net(8, 2), two=net(2, 8))
    assert first(lambda m, x: m.head(m.model(x)), model=model, head=net()) == ("model", None)
    assert first(lambda m, x: m.loss(m.model(x)), model=model, loss=net())[0] == "model.one"


def test_the_features_before_a_head_are_read_with_a_telling_name_and_without():
    for name in ("fc", "last"):
        model = Of(
            lambda m, x, name=name: getattr(m, name)(m.b(m.a(x))), a=net(8, 8), b=net(8, 8), **{name: nn.Linear(8, 3)}
        )
        assert first(lambda m, x: m.model(x).logsumexp(1).mean(), model=model) == ("model", name)


def test_a_single_layer_is_read_after_it_whatever_its_name_is():
    whole = Of(lambda m, x: m.classifier(x.flatten(1)), classifier=nn.Linear(8, 2))
    assert first(lambda m, x: m.model(x), model=whole) == ("model", None)


def test_a_last_layer_that_another_module_is_given_is_no_head():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert first(lambda m, x: m.model(x).logsumexp(1).mean(), model=model) == ("model", "2")
    assert first(lambda m, x: m.after(m.model(x).relu()), model=model, after=net(4)) == ("model", None)


def test_a_pooling_layer_by_the_name_of_a_head_is_none():
    model = Of(lambda m, x: m.head(m.body(x)), body=net(8, 4), head=nn.LayerNorm(4))
    assert first(lambda m, x: m.projector(m.model(x)), model=model, projector=net(4)) == ("model", None)


def test_a_trunk_that_a_head_is_given_is_read_itself_and_one_stage_of_it_is_not():
    whole = Of(lambda m, x: m.fc(m.body(x)), body=net(8, 8), fc=nn.Linear(8, 3))
    assert first(lambda m, x: m.model(x).sum(), model=whole) == ("model.body", None)
    staged = Of(lambda m, x: m.fc(m.late(m.early(x))), early=net(8, 8), late=net(8, 8), fc=nn.Linear(8, 3))
    assert first(lambda m, x: m.model(x).sum(), model=staged) == ("model", "fc")


def test_an_early_stage_by_the_name_of_an_encoder_is_none_before_a_larger_one():
    model = Of(
        lambda m, x: m.fc(m.context(m.feature_extractor(x))),
        feature_extractor=net(8, 8), context=net(8, 8, 64), fc=nn.Linear(8, 3),
    )  # fmt: skip
    assert first(lambda m, x: m.model(x).sum(), model=model) == ("model", "fc")


def test_a_module_that_compares_two_views_is_none_and_its_encoder_is():
    def forward(m, one, other):
        return m.net(one) @ m.net(other).T, torch.arange(len(one))

    x = torch.rand(6, 2, 4)
    pair = Of(forward, net=Of(lambda m, x: m.layer(x.flatten(1)), layer=nn.Linear(8, 4)))
    assert first(lambda m, x: m.pair(x, x.flip(1))[0].sum(), x, pair=pair)[0] == "pair.net"


def test_words_that_are_predicted_with_the_embedding_s_weights_are_no_features():
    def forward(m, ids):
        return m.blocks(m.words(ids)) @ m.words.weight.T

    model = Of(forward, words=nn.Embedding(30, 8), blocks=net(8, 8))
    found = first(lambda m, ids: m.model(ids).logsumexp(-1).mean(), torch.randint(30, (6, 5)), model=model)
    assert found[0] == "model"
    assert found[1][0] == "blocks"


def test_a_method_that_returns_features_is_one_and_those_that_decode_are_not():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 3), nn.Linear(3, 8)

        def encode(self, x):
            return self.one(x).relu()

        def decode(self, z):
            return self.two(z)

        def forward(self, x):
            return self.decode(self.encode(x))

    assert first(lambda m, x: m.model(x).square().mean(), model=Both()) == ("model.encode", None)


def test_where_everything_has_the_name_of_a_head_what_judges_is_read_and_not_what_generates():
    def step(m, x):
        return m.discriminator(m.generator(x)).mean()

    found = ranked(step, generator=net(8, 8), discriminator=net(8, 1))
    assert [path for path, _ in found] == ["discriminator"]


def test_a_trunk_that_is_given_scaled_pictures_is_no_stage():
    parts = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 8))
    model = Of(lambda m, x: m.fc(m.parts(2 * x)), parts=parts, fc=nn.Linear(8, 3))
    assert first(lambda m, x: m.model(x).sum(), torch.rand(6, 3, 8, 8), model=model) == ("model.parts", None)


def test_a_model_with_a_decoder_inside_is_none_whatever_comes_after_it():
    model = Of(lambda m, x: m.out(m.decoder(m.narrow(x))), narrow=net(8, 4), decoder=net(4, 12), out=net(12, 12))
    assert first(lambda m, x: m.model(x).sum(), model=model) == ("model.narrow", None)


def names(step, x=None, **parts):
    return [name for name, _ in ranked(step, x, **parts)]


def names_of(root, step, x=None):
    tree = recorded_of(root, step, x)
    return [call.name for call in rank_encoders(tree.calls, tree.root)]


def test_where_everything_has_the_name_of_a_head_a_loss_is_none_of_it():
    def step(m, x):
        return m.criterion(m.discriminator(m.generator(x)))

    parts = {
        "generator": net(8, 8),
        "discriminator": net(8, 8),
        "criterion": Of(lambda m, z: m.net(z).mean(), net=net()),
    }
    assert names(step, **parts) == ["discriminator"]


def test_what_takes_real_inputs_comes_before_what_takes_words_or_nothing():
    parts = {
        "words": nn.Embedding(9, 4),
        "table": Of(lambda m: m.net.weight * 1, net=nn.Linear(8, 6)),
        "net": Weights(9),
    }
    ids = torch.randint(9, (6, 5))
    assert names(lambda m, x: (m.words(ids), m.table(), m.net(x)), **parts) == ["net", "words", "table"]


def test_weights_are_compared_with_those_of_modules_at_the_same_depth():
    deeper = Of(lambda m, x: m.encoder(x).mean(), encoder=Weights(2000))
    found = names(lambda m, x: (m.a(x), m.c(x), m.head(x)), a=Weights(1), c=Weights(40), head=deeper)
    assert found == ["head.encoder", "c", "a"]
    assert names(lambda m, x: (m.one(x), m.model(x)), one=Weights(40), model=Weights(40)) == ["model", "one"]


@pytest.mark.parametrize("name", ["net", "model"])
def test_the_forward_of_the_step_s_module_comes_first_unless_a_head_takes_what_it_returns(name):
    def forward(m, x):
        return 2 * getattr(m, name)(x)

    inner = {name: Of(lambda m, x: m.head(m.net(x)), net=net(8, 8), head=nn.LayerNorm(8))}
    assert names_of(Forward(forward, **inner), lambda m, x: m(x)) == ["forward", name]
    root = Forward(forward, **inner, projector=net(8, 8))
    assert names_of(root, lambda m, x: m.projector(m(x))) == [name, "forward"]


def test_the_network_of_a_forward_that_projects_comes_first():
    root = Forward(lambda m, x: m.mlp(m.net(x)), net=nn.Sequential(nn.Flatten(), nn.Linear(16, 8)), mlp=net(8, 8))
    assert names_of(root, lambda m, x: m(x), torch.rand(6, 1, 4, 4)) == ["net", "mlp", "forward"]


def test_a_step_that_returns_a_loss_is_no_candidate_and_a_model_that_does_is_read_before_its_head():
    class Stepping(Forward):
        def shared_step(self, x):
            return self.quiet(x), self.model(x)

    model = Of(lambda m, x: m.final_proj(m.late(m.early(x))).mean(), early=net(8, 8), late=net(8, 8),
               final_proj=nn.Linear(8, 4))  # fmt: skip
    root = Stepping(model=model, quiet=Of(lambda m, x: m.encoder(x).mean(), encoder=Weights(9)))
    assert names_of(root, lambda m, x: m.shared_step(x)) == ["quiet.encoder", "model", "model.early"]


def test_of_two_models_the_one_with_a_head_comes_before_the_one_that_is_read_after_a_part():
    def narrow(m, x):
        return m.up(m.a(2 * x))

    parts = {"one": Of(narrow, a=nn.Linear(8, 2), up=nn.Linear(2, 8)),
             "other": Of(lambda m, x: m.fc(m.b(m.a(x))), a=net(8, 8), b=net(8, 8), fc=nn.Linear(8, 3))}  # fmt: skip
    assert ranked(lambda m, x: (m.one(x), m.other(x)), **parts) == [
        ("other", "fc"), ("one", ("a",)), ("other.a", None)
    ]  # fmt: skip


def test_a_model_that_compares_views_comes_after_its_encoder_and_before_a_stem():
    pair = Of(lambda m, one, other: m.net(one) - m.net(other), net=nn.Sequential(nn.Flatten(), nn.Linear(8, 4)))
    x = torch.rand(6, 2, 4)
    found = names(lambda m, x: m.pair(m.stem(x), m.stem(x.flip(1))), x, pair=pair, stem=nn.Linear(4, 4))
    assert found == ["pair.net", "pair", "stem"]


class Calling(nn.Module):
    """Calls modules that it does not hold."""

    def __init__(self, *others):
        super().__init__()
        self.layer, self.others = net(8, 8), others

    def forward(self, x):
        return self.layer(x) + sum(other(x) for other in self.others)


def test_within_a_model_one_by_the_name_of_an_encoder_comes_before_others_and_after_the_model():
    own, encoder = Weights(9), Weights(9)
    found = names(lambda m, x: m.model(x), own=own, own_encoder=encoder, model=Calling(own, encoder))
    assert found == ["model", "own_encoder", "own"]
