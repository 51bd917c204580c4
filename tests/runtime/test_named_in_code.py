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


def test_a_file_or_class_that_is_imported_within_a_function_is_found_too(monkeypatch):
    from tests import results as imported

    monkeypatch.setattr(imported, "COUNTED", [2], raising=False)
    inner = Kept

    def takes():
        return imported.COUNTED, inner

    found = dict(CODE.named_namespaces(takes))
    assert found == {Kept: {"steps": 3, "of_another_kind": (1, 2)}, results: {"COUNTED": [2]}}


def test_names_are_variables_attributes_and_texts_also_of_functions_within():
    def takes(x):
        def inner():
            return x.second, getattr(x, "third")  # noqa: B009

        return COUNTS, x.first, inner

    assert {"COUNTS", "first", "second", "third", "getattr"} <= CODE.names(takes)
    assert "x" not in CODE.names(takes)
    assert CODE.names(json.loads) == set()


class Net(nn.Linear):
    def forward(self, x):
        return self.prepare(x) + self.fixed() + Net.of_class() + self.size

    def prepare(self, x):
        return x

    @staticmethod
    def fixed():
        return 1

    @classmethod
    def of_class(cls):
        return 1

    @property
    def size(self):
        return 1


class Deeper(Net):
    constant = 3

    def forward(self, x):
        return super().forward(x)


ALL = {"forward", "prepare", "fixed", "of_class", "size", "constant", "absent"}


@pytest.mark.parametrize(
    ("kind", "names", "found"),
    [
        (Net, ALL, ["fixed", "forward", "of_class", "prepare", "size"]),
        (Net, {"size"}, ["size"]),
        (Net, set(), []),
        (Deeper, {"forward", "prepare", "constant"}, ["forward", "forward", "prepare"]),  # its own, and what it extends
        (nn.Linear, {"forward"}, []),
    ],
)
def test_the_functions_behind_named_methods_and_properties_are_found(kind, names, found):
    methods = list(CODE.methods(kind, names))
    assert [name for name, _ in methods] == found
    assert all(isinstance(function, types.FunctionType) and function.__name__ == name for name, function in methods)


def test_an_installed_package_is_the_user_s_if_it_is_said():
    own = UsersCode(["json", "torch"])
    assert [own.owns(module) for module in ("json.decoder", "torch.nn", "math", None)] == [True, False, False, False]
    assert "s" not in own.names(json.loads)
    assert "_default_decoder" in own.names(json.loads)
    assert [CODE.owns("json.decoder"), CODE.owns(__name__)] == [False, True]


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
