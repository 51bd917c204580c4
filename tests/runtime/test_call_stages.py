"""Which calls are stages before the representation of the module that makes them."""

import pytest
from torch import nn

from synbench_lightning.runtime.call_tree import Readout
from tests.runtime.test_call_tree import model_of, stages, targets
from tests.runtime.test_encoder_ranking import Forward, Weights, net, recorded, recorded_of

L = nn.Linear
STAGES = {
    "a stem before an encoder": (
        lambda m, x: m.fc(m.encoder(m.stem(x))), {"stem": L(8, 8), "encoder": net(8, 8), "fc": L(8, 3)},
        {"stem": True, "encoder": True},
    ),
    "networks behind each other": (
        lambda m, x: m.fc(m.late(m.early(x))), {"early": net(8, 8), "late": net(8, 8), "fc": L(8, 3)},
        {"early": True, "late": False},
    ),
    "an encoder before a network as large": (
        lambda m, x: m.fc(m.late(m.encoder(x))), {"encoder": net(8, 8), "late": net(8, 8), "fc": L(8, 3)},
        {"encoder": False},
    ),
    "an encoder before a larger network": (
        lambda m, x: m.fc(m.late(m.encoder(x))), {"encoder": net(8, 8), "late": net(8, 8, 17), "fc": L(8, 3)},
        {"encoder": True},
    ),
    "an encoder beside a larger network": (
        lambda m, x: m.fc(m.encoder(x)) + m.beside(x).mean(),
        {"encoder": net(8, 8), "beside": net(8, 8, 40), "fc": L(8, 3)}, {"encoder": False},
    ),
    "an encoder before a larger decoder": (
        lambda m, x: m.up(m.encoder(x)), {"encoder": net(8, 4), "up": net(4, 8, 40)}, {"encoder": False},
    ),
    "a network before the head and another one as large": (
        lambda m, x: m.fc(z := m.net(x)) + m.side(z).mean(), {"net": net(8, 8), "side": net(8, 8), "fc": L(8, 3)},
        {"net": False},
    ),
    "a network before the head and a larger one": (
        lambda m, x: m.fc(z := m.net(x)) + m.side(z).mean(), {"net": net(8, 8), "side": net(8, 8, 17), "fc": L(8, 3)},
        {"net": True},
    ),
    "a network before dropout and the head": (
        lambda m, x: m.fc(m.drop(m.net(x))), {"net": net(8, 8), "drop": nn.Dropout(), "fc": L(8, 3)}, {"net": False},
    ),
    "a network before normalization and the head": (
        lambda m, x: m.fc(m.norm(m.net(x))), {"net": net(8, 8), "norm": nn.LayerNorm(8), "fc": L(8, 3)}, {"net": True},
    ),
    "a network that takes something else than the model": (
        lambda m, x: m.fc(m.net(x.view(6, 2, 4)).mean(1)),
        {"net": net(4, 8), "fc": L(8, 3)},
        {"net": True},
    ),
    "a stem in a model that returns its loss": (
        targets,
        {"stem": net(8, 8), "blocks": net(8, 8, 17), "final_proj": L(8, 8), "target_proj": L(8, 8)},
        {"stem": True, "blocks": False},
    ),
    "tokens before pooling and the head": (
        lambda m, x: m.fc(m.pool(m.net(x.view(6, 2, 4))).flatten(1)),
        {"net": net(4, 8), "pool": nn.AdaptiveAvgPool2d((1, 8)), "fc": L(8, 3)}, {"net": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_which_parts_are_stages_before_the_representation(name):
    forward, parts, expected = STAGES[name]
    tree, _ = model_of(forward, **parts)
    assert dict(zip(expected, stages(tree, *expected), strict=True)) == expected


class Methods(nn.Module):
    """Two methods in a row, and a reconstruction of the input."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.up = L(8, 6), L(6, 3), L(3, 8)

    def begins(self, x):
        return self.one(x).relu()

    def goes_on(self, x):
        return self.two(x)

    def forward(self, x):
        return self.up(self.goes_on(self.begins(x)))


def test_of_methods_behind_each_other_those_before_the_narrowest_are_stages():
    tree = recorded(lambda m, x: m.model(x).mean(), model=Methods())
    assert [tree.is_stage(tree.calls["model", name]) for name in ("begins", "goes_on")] == [True, False]


class Stepping(Forward):
    def shared_step(self, x):
        return self(x).mean()

    def fill(self, x):
        self.kept = self.late(self.early(x))


@pytest.mark.parametrize("kept", [False, True])
def test_a_step_by_another_name_that_calls_the_forward_has_the_stages_of_the_forward(kept):
    def forward(m, x):
        return m.fc((m.fill(x), m.kept)[1] if kept else m.late(m.early(x)))

    root = Stepping(forward, early=net(8, 8), late=net(8, 8), fc=L(8, 3))
    tree = recorded_of(root, lambda m, x: m.shared_step(x))
    assert [tree.is_stage(tree.calls[name, ""]) for name in ("early", "late")] == [True, False]
    assert tree.readout(tree.calls["", ""]) == Readout("fc")


@pytest.mark.parametrize(
    ("small", "name", "outputs", "stage"),
    [(29, "after", 7, True), (30, "after", 7, False), (29, "after", 8, False), (29, "head", 7, False)],
)  # fmt: skip
def test_a_module_with_less_than_three_hundredths_of_the_next_one_s_weights_is_a_stage_unless_that_decodes(
    small, name, outputs, stage
):
    parts = {"one": Weights(small, 8), name: Weights(1000, outputs)}
    tree = recorded(lambda m, x: getattr(m, name)(m.one(x)).mean(), **parts)
    assert tree.is_stage(tree.calls["one", ""]) == stage
    named = recorded(lambda m, x: getattr(m, name)(m.encoder(x)).mean(), **{"encoder": parts["one"], name: parts[name]})
    assert not named.is_stage(named.calls["encoder", ""])
