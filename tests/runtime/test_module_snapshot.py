"""Whatever a forward changes that its module reaches is afterwards as it was."""

import array
import logging
import random
import sqlite3
import threading
import types
import warnings
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from synbench_lightning.runtime import module_snapshot
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.module_snapshot import ModuleSnapshot


@dataclass
class Statistics:
    mean: torch.Tensor = field(default_factory=lambda: torch.zeros(2))
    seen: list = field(default_factory=list)


class Slotted:
    __slots__ = ("__secret", "count")

    def __init__(self):
        self.count, self.__secret = 0, [1]

    def add(self):
        self.count += 1
        self.__secret.append(self.count)

    def shown(self):
        return self.count, self.__secret


NAMED: list[torch.Tensor] = []


class Naming:
    count = 0

    def __call__(self, x):
        return self.keep(x)

    def keep(self, x):
        NAMED.append(x)


def counter():
    calls = 0
    kept = []

    def count():
        nonlocal calls
        calls += 1
        kept.append(calls)
        return calls

    count.shown = lambda: (calls, list(kept))
    return count


def holder(value):
    module = nn.Linear(2, 2)
    module.value = value
    return module


def database():
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (a)")
    return connection


def adjacency():
    return torch.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2))


CHANGES = {
    "queue": (lambda: deque([1, 2], maxlen=2), lambda v: v.append(3), list),
    "queue without an end": (lambda: deque([1]), lambda v: v.append(2), list),
    "queue of tensors": (lambda: deque([torch.zeros(2)]), lambda v: v[0].add_(1), lambda v: v[0].tolist()),
    "tensors in a dict": (lambda: {"a": {"b": torch.zeros(2)}}, lambda v: v["a"]["b"].fill_(3), str),
    "dict in a list in a tuple": (lambda: ([{"a": 1}],), lambda v: v[0][0].update(a=2, b=3), str),
    "order of a dict": (lambda: OrderedDict(a=1, b=2), lambda v: v.move_to_end("a"), lambda v: list(v.items())),
    "defaultdict": (lambda: defaultdict(list, a=[1]), lambda v: v["b"].append(v["a"].append(2)), str),
    "counts": (lambda: Counter("aab"), lambda v: v.update("b"), str),
    "set": (lambda: {1, 2}, lambda v: v.add(3), sorted),
    "bytes": (lambda: bytearray(b"ab"), lambda v: v.extend(b"c"), bytes),
    "numbers": (lambda: array.array("d", [1.0]), lambda v: v.append(2.0), list),
    "array": (lambda: np.zeros(3), lambda v: v.__iadd__(1), lambda v: v.tolist()),
    "array of objects": (lambda: np.array([[1], [2]], dtype=object), lambda v: v.fill(7), str),
    "lists in an array": (lambda: np.array([[1], [2, 3]], dtype=object), lambda v: v[0].append(7), str),
    "old numpy generator": (lambda: np.random.RandomState(0), lambda v: v.rand(), lambda v: str(v.get_state())),
    "numpy generator": (lambda: np.random.default_rng(0), lambda v: v.random(), lambda v: str(v.bit_generator.state)),
    "generator of Python": (lambda: random.Random(0), lambda v: v.random(), lambda v: v.getstate()),
    "generator of torch": (lambda: [torch.Generator()], lambda v: v[0].seed(), lambda v: v[0].get_state().tolist()),
    "dataclass": (Statistics, lambda v: v.seen.append(v.mean.add_(1)), str),
    "slots": (Slotted, lambda v: v.add(), lambda v: str(v.shown())),
    "namespace": (lambda: types.SimpleNamespace(a=[1]), lambda v: v.__dict__.update(b=v.a.append(2)), str),
    "closure": (counter, lambda v: v(), lambda v: v.shown()),
    "default of a function": (lambda: lambda kept=[]: kept, lambda v: v().append(1), lambda v: list(v())),
    "attribute of a class": (Naming, lambda v: setattr(type(v), "count", 1), lambda v: v.count),
    "what a call names": (Naming, lambda v: v(torch.ones(1)), lambda v: list(NAMED)),
    "sparse": (adjacency, lambda v: v.mul_(2), lambda v: v.to_dense().tolist()),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda v: v[0].add_(1),
        lambda v: [part.tolist() for part in v.unbind()],
    ),
    "half precision": (lambda: torch.zeros(2, dtype=torch.bfloat16), lambda v: v.add_(1), lambda v: v.tolist()),
    "view": (lambda: torch.zeros(4)[1:3], lambda v: v.add_(1), lambda v: v.tolist()),
    "expanded": (lambda: torch.zeros(1).expand(3), lambda v: v[:1].add_(1), lambda v: v.tolist()),
    "resized": (lambda: torch.zeros(2), lambda v: setattr(v, "data", torch.ones(5)), lambda v: v.tolist()),
    "an attribute of a tensor": (lambda: torch.zeros(1), lambda v: v.__dict__.update(a=1), lambda v: str(vars(v))),
    "module in a list": (lambda: [nn.BatchNorm1d(2)], lambda v: v[0].train()(torch.randn(4, 2)), lambda v: str(
        (v[0].training, v[0].running_mean, v[0].num_batches_tracked)
    )),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_forward_changes_is_put_back(kind, fails):
    make, change, shown = CHANGES[kind]
    module = holder(make())
    value, before = module.value, shown(module.value)
    with pytest.raises(ZeroDivisionError) if fails else isolated(None), isolated(module):
        change(module.value)
        assert shown(module.value) != before
        module.other = module.value
        module.value = None
        if fails:
            1 / 0  # noqa: B018
    assert module.value is value
    assert shown(value) == before
    assert not hasattr(module, "other")


def with_gradients(layer):
    with torch.enable_grad():
        layer(torch.ones(1, 2)).sum().backward()


WRITES = {
    "max-norm": lambda layer: setattr(layer.weight, "data", torch.renorm(layer.weight, 2, 0, 0.1)),
    "clamp": lambda layer: layer.weight.data.clamp_(0, 0.01),
    "average": lambda layer: layer.weight.detach().lerp_(torch.ones(3, 2), 0.5),
    "same norm": lambda layer: layer.weight.data.neg_(),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.ones(3, 2))),
    "frozen": lambda layer: layer.weight.requires_grad_(False),
    "no gradient": lambda layer: layer.zero_grad(),
    "in place": lambda layer: layer.weight.add_(1),
    "a backward pass of its own": lambda layer: with_gradients(layer),
}


@pytest.mark.parametrize("write", WRITES)
def test_parameters_that_a_forward_writes_are_put_back_and_nothing_is_said(write):
    layer = nn.Linear(2, 3)
    layer(torch.ones(1, 2)).sum().backward()
    weight, gradient, version = layer.weight, layer.weight.grad, layer.weight._version
    kept, kept_gradient = weight.detach().clone(), gradient.clone()
    place = weight.data_ptr()
    with isolated(layer):
        WRITES[write](layer)
    assert layer.weight is weight
    assert weight.data_ptr() == place
    assert torch.equal(weight, kept)
    assert weight.grad is gradient
    assert torch.equal(gradient, kept_gradient)
    assert weight.requires_grad
    assert weight._version <= version + 1  # putting back counts as no write of its own


def test_objects_in_two_places_stay_one_and_circles_end():
    module = holder({"one": [1]})
    module.value["two"], module.value["self"] = module.value["one"], module.value
    module.again = module
    with isolated(module):
        module.value["two"] = [*module.value["two"], 2]
        module.value["one"].append(3)
    assert module.value["one"] is module.value["two"]
    assert module.value == {"one": [1], "two": [1], "self": module.value}


def test_teachers_outside_the_registry_are_in_evaluation_mode_too():
    module = holder([nn.Dropout()])
    with isolated(module):
        assert not module.value[0].training
    assert module.value[0].training


def test_what_cannot_be_put_back_is_named():
    module = holder({"steps": (n for n in range(9)), "still": (n for n in range(9))})
    next(module.value["steps"])
    with pytest.warns(UserWarning, match=r"cannot be restored: Linear\.value\['steps'\]\."), isolated(module):
        next(module.value["steps"])
    with warnings.catch_warnings(), isolated(module):
        warnings.simplefilter("error")


def test_what_comes_after_a_number_of_objects_is_named(monkeypatch):
    module = holder([[[1]]])
    number = len(ModuleSnapshot(module)._seen)
    monkeypatch.setattr(module_snapshot, "MOST", number)
    assert ModuleSnapshot(module).restore() == []
    monkeypatch.setattr(module_snapshot, "MOST", number - 1)
    (named,) = ModuleSnapshot(module).restore()
    assert named.startswith("Linear.")
    assert named.endswith(f" and everything after {number - 1} objects")


def test_every_restore_runs_whatever_another_does():
    class Broken(np.ndarray):
        def __array_function__(self, *args, **kwargs):
            raise RuntimeError("not today")

    module = holder([np.zeros(2).view(Broken), [1], torch.zeros(2)])
    module.late = torch.zeros(2)

    def change():
        with isolated(module):
            module.value[1].append(2)
            module.value[2].add_(1)
            module.late.add_(1)

    with pytest.warns(UserWarning, match=r"value\[0\] \(RuntimeError: not today\)"):
        change()
    assert module.value[1] == [1]
    assert not module.value[2].any()
    assert not module.late.any()


def test_memory_that_is_mapped_for_reading_is_not_written(tmp_path):
    np.arange(6.0).tofile(tmp_path / "table")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such a tensor is not to be written
        module = holder(torch.from_numpy(np.memmap(tmp_path / "table", np.float64, "r")))
    with isolated(module):
        module.value = None
    assert module.value.tolist() == list(range(6))


def test_the_trainer_and_the_data_are_not_looked_into():
    class Data(torch.utils.data.Dataset):
        def __init__(self):
            self.reads = 0

    module = holder([Data(), torch.optim.SGD(nn.Linear(1, 1).parameters())])
    state = ModuleSnapshot(module)
    module.value[0].reads += 1
    module.value[1].param_groups[0]["lr"] = 3.0
    assert state.restore() == []
    assert module.value[0].reads == 1
    assert module.value[1].param_groups[0]["lr"] == 3.0


def test_iterators_that_have_no_copy_are_listed(tmp_path):
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as file:
        module = holder({"a": (n for n in range(3)), "b": iter([1, 2]), "c": [1, 2], "d": file})
        assert ModuleSnapshot(module).iterators == ["Linear.value['a']"]


def test_iterators_are_lent_in_lists_and_dicts():
    module = holder([iter([1, 2]), {"a": iter("ab")}, OrderedDict(a=iter((3, 4)))])
    before = [module.value[0], module.value[1]["a"], module.value[2]["a"]]
    with isolated(module):
        assert [next(module.value[0]), next(module.value[1]["a"]), next(module.value[2]["a"])] == [1, "a", 3]
    after = [module.value[0], module.value[1]["a"], module.value[2]["a"]]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert [next(one) for one in after] == [1, "a", 3]


def test_what_a_container_loads_when_it_is_read_is_not_loaded():
    class Lazy(OrderedDict):
        def keys(self):
            return ["missing"]

        def __getitem__(self, key):
            raise ImportError(key)

    net = nn.Linear(2, 2)
    net.lazy = Lazy(there=1)
    with isolated(net):
        OrderedDict.__setitem__(net.lazy, "new", 2)
    assert list(OrderedDict.items(net.lazy)) == [("there", 1)]


WHERE, TURNS = ContextVar("where", default=0), threading.local()


class Key:
    pass


def keyed(kind):
    key = Key()  # kept alive by the module
    module = holder(key)
    module.weak = kind()
    return module, key


def test_weak_containers_variables_of_contexts_and_threads_and_views_of_memory_are_put_back():
    module, key = keyed(weakref.WeakKeyDictionary)
    module.values, module.memory, module.local = weakref.WeakSet(), memoryview(bytearray(2)), threading.local()
    module.local.n, TURNS.n = 0, [0]
    WHERE.set(1)
    module.named = lambda: (WHERE, TURNS)
    with isolated(module):
        module.weak[key] = 1
        module.values.add(key)
        module.memory[0] = module.local.n = 3
        TURNS.n.append(4)
        WHERE.set(5)
    assert (len(module.weak), len(module.values), bytes(module.memory), module.local.n) == (0, 0, bytes(2), 0)
    assert (TURNS.n, WHERE.get()) == ([0], 1)


OPAQUE = {
    "queue without a lock": (SimpleQueue, lambda v: v.put(1)),
    "batches": (lambda: iter(DataLoader(range(9))), next),
    "permutation": (lambda: iter(RandomSampler(range(9))), next),
    "database": (database, lambda v: v.execute("insert into t values (1)")),
    "iterator over a generator": (lambda: enumerate(n for n in range(9)), next),
}


@pytest.mark.parametrize("kind", OPAQUE)
def test_what_has_no_copy_is_named_where_it_has_changed(kind):
    make, change = OPAQUE[kind]
    module = holder(make())
    if hasattr(module.value, "__next__"):
        next(module.value)
    with warnings.catch_warnings(), isolated(module):
        warnings.simplefilter("error")
    with pytest.warns(UserWarning, match=r"cannot be restored: Linear\.value"), isolated(module):
        change(module.value)


def test_loggers_belong_to_the_process_and_are_not_named_where_a_forward_changes_them():
    module = holder(logging.getLogger("tests.kept"))
    state = ModuleSnapshot(module)
    module.value.setLevel(logging.ERROR)
    assert state.restore() == []
    assert module.value.level == logging.ERROR


def test_functions_are_followed_without_a_module():
    kept = []
    state = ModuleSnapshot(None, [lambda: kept])
    kept.append(1)
    assert state.restore() == []
    assert kept == []
