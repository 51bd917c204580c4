"""What the code of a user refers to: variables of its files, classes and their attributes, methods."""

import json
import math
import types

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.named_in_code import (
    MISSING,
    class_attributes,
    code_of,
    global_variables,
    is_users,
    named_namespaces,
)
from tests import results

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
    found = dict(global_variables(refers))
    assert found.pop("NOT_YET") is MISSING
    assert {name: value for name, value in found.items() if value is not MISSING} == {"COUNTS": COUNTS, "OTHER": OTHER}
    assert dict(global_variables(json.loads)) == {}


def test_a_variable_by_the_name_of_a_builtin_is_found_where_it_is_one_of_the_file(monkeypatch):
    def shadowed():
        return len, sum

    assert dict(global_variables(shadowed)) == {}
    monkeypatch.setitem(globals(), "sum", [3])
    assert dict(global_variables(shadowed)) == {"sum": [3]}


def test_the_user_s_classes_and_files_are_found_with_the_variables_that_are_named(monkeypatch):
    monkeypatch.setattr(results, "COUNTED", [2], raising=False)
    monkeypatch.setattr(results, "NOT_NAMED", [2], raising=False)
    found = dict(named_namespaces(refers))
    assert found == {Kept: {"steps": 3, "of_another_kind": (1, 2)}, results: {"COUNTED": [2]}}


def test_of_a_file_s_names_modules_and_classes_are_no_variables(monkeypatch):
    def takes():
        return results.Kept, results.nested, results.value

    for name, value in (("Kept", Kept), ("nested", types.ModuleType("nested")), ("value", 3)):
        monkeypatch.setattr(results, name, value, raising=False)
    assert dict(named_namespaces(takes))[results] == {"value": 3}


class Further(Kept, nn.Linear):
    more = 1


def test_the_attributes_of_the_user_s_classes_of_an_object_are_found():
    assert dict(class_attributes(Further(1, 1))) == {
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


class Callable:
    def __call__(self, x):
        return self.inner(x)

    def inner(self, x):
        return x


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (Net(1, 1), ["fixed", "forward", "of_class", "prepare", "prepare_more"]),
        (Callable(), ["__call__", "inner"]),
        (nn.Linear(1, 1), []),
    ],
)
def test_the_methods_that_run_when_an_object_is_called_are_found_once_each(value, names):
    found = list(code_of(value))
    assert sorted(name for name, _ in found) == names
    assert all(function.__name__ == name for name, function in found)


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
