"""What the code of a user refers to: variables of its files, classes and their attributes, methods."""

import json
import math
import types

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.named_in_code import MISSING, UsersCode, is_users
from tests import results

CODE = UsersCode()
COUNTS = [1]
OTHER = {"a": 1}


class Kept:
    """A class with variables, methods and descriptors."""

    steps = 3
    of_another_kind = (1, 2)
    _abc_impl = object()

    def method(self):
        return self.steps

    @property
    def shown(self):
        return self.steps


def refers():
    def inner():
        return OTHER

    return COUNTS, Kept, len(NOT_YET), torch.ones, math.pi, inner, results, results.COUNTED, json.loads  # noqa: F821


def test_the_variables_that_a_function_and_those_within_it_name_are_found():
    found = dict(CODE.global_variables(refers))
    assert found.pop("NOT_YET") is MISSING
    assert {name: value for name, value in found.items() if value is not MISSING} == {"COUNTS": COUNTS, "OTHER": OTHER}
    assert dict(CODE.global_variables(json.loads)) == {}
    assert dict(CODE.global_variables(lambda: "COUNTS")) == {}  # a text


def test_a_variable_by_the_name_of_a_builtin_is_found_where_it_is_one_of_the_file(monkeypatch):
    def shadowed():
        return len, sum

    assert dict(CODE.global_variables(shadowed)) == {}
    monkeypatch.setitem(globals(), "sum", [3])
    assert dict(CODE.global_variables(shadowed)) == {"sum": [3]}


def test_the_user_s_classes_and_files_are_found_with_the_variables_that_are_named(monkeypatch):
    monkeypatch.setattr(results, "COUNTED", [2], raising=False)
    monkeypatch.setattr(results, "NOT_NAMED", [2], raising=False)
    found = dict(CODE.named_namespaces(refers))
    assert found == {Kept: {"steps": 3, "of_another_kind": (1, 2)}, results: {"COUNTED": [2]}}


def test_of_a_file_s_names_modules_and_classes_are_no_variables(monkeypatch):
    def takes():
        return results.Kept, results.nested, results.value

    for name, value in (("Kept", Kept), ("nested", types.ModuleType("nested")), ("value", 3)):
        monkeypatch.setattr(results, name, value, raising=False)
    assert dict(CODE.named_namespaces(takes))[results] == {"value": 3}


class Further(Kept, nn.Linear):
    more = 1


def test_the_attributes_of_the_user_s_classes_of_an_object_are_found():
    assert dict(CODE.class_attributes(Further(1, 1))) == {
        Further: {"more": 1},
        Kept: {"steps": 3, "of_another_kind": (1, 2)},
    }


class Net(nn.Linear):
    def forward(self, x):
        return self.prepare(x) + self.fixed() + Net.of_class()

    def prepare(self, x):
        return self.prepare_more(x)

    def prepare_more(self, x):
        return self.prepare(x) if x is None else x

    def unused(self):
        return 1

    @staticmethod
    def fixed():
        return 1

    @classmethod
    def of_class(cls):
        return 1

    @property
    def shown(self):
        return 1


def test_the_functions_of_a_class_by_their_names_are_those_of_the_user_s_classes():
    names = {"forward", "prepare", "fixed", "of_class", "shown", "weight", "extra_repr", "__init__", "none"}
    found = dict(CODE.methods(Net, names))
    assert set(found) == {"forward", "prepare", "fixed", "of_class", "shown"}
    assert all(isinstance(function, types.FunctionType) for function in found.values())
    assert {name for name, _ in CODE.methods(Further, {"method", "more", "steps"})} == {"method"}
    assert list(CODE.methods(nn.Linear, {"forward"})) == []


def test_a_function_s_names_are_its_variables_and_attributes_and_the_texts_in_it():
    def named(x):
        def inner():
            return "within"

        return getattr(x, "of_a_text")[COUNTS], x.attribute, inner, 3  # noqa: B009

    assert {"of_a_text", "within", "COUNTS", "attribute", "getattr"} <= CODE.names(named)
    assert 3 not in CODE.names(named)
    assert CODE.names(json.loads) == set()


def test_a_class_that_an_enclosing_function_holds_is_found():
    class Held:
        value = 1

    def takes():
        return Held.value

    assert dict(CODE.named_namespaces(takes)) == {Held: {"value": 1}}


def test_packages_may_count_as_the_user_s_unless_they_are_libraries_of_training():
    code = UsersCode(["json", "torch"])
    assert [code.owns(module) for module in ("json.decoder", "torch.nn", "pytest", None, __name__)] == [
        True, False, False, False, True
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "users"),
    [
        (None, False), ("builtins", False), ("sys", False), ("json", False), ("json.decoder", False),
        ("torch", False), ("torch.nn.modules", False), ("synbench_lightning.probe", False), ("numpy", False),
        ("pytest", False), (__name__, True), ("a_cell_of_a_notebook", True), ("torches", True),
    ],
)  # fmt: skip
def test_a_python_module_is_the_user_s_unless_it_is_installed_or_of_the_standard_library(module, users):
    assert is_users(module) == users
