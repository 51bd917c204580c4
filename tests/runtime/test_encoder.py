import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from synbench_lightning.runtime.encoder import find_encoder


class Module(LightningModule):
    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)

    def embed(self, x):
        return x[:, :2]


class WithForward(Module):
    def forward(self, x):
        return 2 * x


class Model(nn.Module):
    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


@pytest.mark.parametrize(
    ("children", "found"),
    [
        ({"encoder": nn.Identity(), "backbone": nn.Flatten(), "model": Model()}, "encoder"),
        ({"backbone": nn.Identity(), "model": Model(encoder=nn.Flatten())}, "backbone"),
        ({"model": Model(encoder=nn.Identity(), backbone=nn.Flatten())}, "model.encoder"),
        ({"model": Model(backbone=nn.Identity())}, "model.backbone"),
        ({"model": nn.Identity(), "head": nn.Flatten()}, "model"),
    ],
)
def test_the_first_attribute_in_the_documented_order_is_taken(children, found):
    encoder = find_encoder(WithForward(**children))
    assert isinstance(encoder.forward, nn.Identity)
    assert encoder.name == f"`{found}`, a Identity"


def test_the_forward_is_taken_where_no_attribute_is_found():
    module = WithForward(trunk=nn.Flatten())
    encoder = find_encoder(module)
    assert encoder.name == "the `forward` of WithForward"
    assert encoder.forward(torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2


def test_a_module_without_any_of_them_is_refused_with_its_children():
    with pytest.raises(ValueError, match=r"No encoder was found in Module.*Pass `encoder=` one of 'trunk', 'head'"):
        find_encoder(Module(trunk=nn.Flatten(), head=nn.Flatten()))


def test_a_dotted_path_and_a_method_can_be_named():
    module = Module(student=Model(trunk=nn.Flatten()))
    assert isinstance(find_encoder(module, "student.trunk").forward, nn.Flatten)
    assert find_encoder(module, "embed").forward(torch.ones(3, 4)).shape == (3, 2)


def test_a_callable_gets_the_module():
    module = Module(trunk=nn.Linear(3, 2))
    encoder = find_encoder(module, lambda pl_module, x: pl_module.trunk(x))
    assert encoder.forward(torch.ones(5, 3)).shape == (5, 2)


def test_a_path_that_does_not_exist_lists_the_children_where_it_ends():
    module = Module(student=Model(trunk=nn.Flatten(), neck=nn.Flatten()))
    with pytest.raises(ValueError, match=r"'Module' has no attribute 'teacher'. Its children are 'student'."):
        find_encoder(module, "teacher.trunk")
    with pytest.raises(ValueError, match=r"'student' has no attribute 'trnk'. Its children are 'trunk', 'neck'."):
        find_encoder(module, "student.trnk")


def test_a_path_to_something_that_cannot_be_called_is_refused():
    module = Module()
    module.encoder_name = "resnet"
    with pytest.raises(ValueError, match="`encoder='encoder_name'` must be a module or a method, got a str"):
        find_encoder(module, "encoder_name")
