"""Snapshot all mutable state reachable from a module, and restore it by reference and by value."""

from __future__ import annotations

import array
import io
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from queue import Queue, SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from synbench_lightning.runtime.experiment_trackers import is_tracker
from synbench_lightning.runtime.fingerprints import fingerprint
from synbench_lightning.runtime.iterator_copies import IteratorCopies
from synbench_lightning.runtime.lightning_packages import lightning_classes
from synbench_lightning.runtime.named_in_code import (
    MISSING,
    class_attributes,
    code_of,
    global_variables,
    named_namespaces,
)
from synbench_lightning.runtime.queue_trace import QueueTrace
from synbench_lightning.runtime.restoring import (
    generator_state,
    noted_tensor,
    restore_attributes,
    restore_class,
    restore_elements,
    restore_mapping,
    restore_tensor,
    restore_variables,
    restored_memory,
)

MOST = 200_000  # mutants: memory and time alone
"""Maximum number of objects that are followed; exceeding it triggers a warning. Each takes a few microseconds."""

ATOMS = (int, float, complex, bool, str, bytes, type(None), type, type(Ellipsis), torch.dtype, torch.device, torch.Size)
FOREIGN = (
    "lightning.", "pytorch_lightning.", "lightning_fabric.", "torch.utils.data.", "torch.optim.", "torch.distributed.",
    "torch._dynamo.", "torch.utils.hooks", "torch.fx.", "logging.", "threading.", "concurrent.", "multiprocessing.",
    "socket.", "weakref.", "_thread.", "queue.", "asyncio.", "subprocess.", "tqdm.", "rich.", "matplotlib.",
    "torch.utils.tensorboard.", "tensorboard.", "tensorboardX.", "wandb.", "mlflow.", "comet_ml.", "neptune.",
)  # fmt: skip
"""Packages whose objects belong to the run and not to the model, or have irreversible effects; not followed."""
OF_THE_RUN = (
    Dataset, DataLoader, Sampler, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, threading.Thread,
)  # fmt: skip
WEAK = WeakKeyDictionary, WeakValueDictionary, WeakSet
VISIBLE = SimpleQueue, _BaseDataLoaderIter
"""What is of a foreign package, and is named where it has changed."""
OF_LIGHTNING = ("LightningDataModule", "Trainer")
GLOBAL_HOOKS = ("_global_forward_pre_hooks", "_global_forward_hooks")
"""torch's registries of hooks that run in the forward of every module."""


class ModuleSnapshot:
    """The state of a module at construction of this object.

    Followed are modules, registered or not, their hooks and the hooks of all modules, nested containers,
    instances of the user's classes and the attributes of these classes, the variables of closures, the module-level
    variables that hooks and forwards name, tensors, arrays and generators of random numbers. Of a trainer the user's
    callbacks and loggers are followed, after everything else. Data sets, data loaders, optimizers, and objects of
    Lightning's own classes are not.

    Args:
        module: the root module.
        also: other objects whose attributes are followed, too.

    Attributes:
        modules: all modules that were reached.
        trackers: clients of experiment trackers that were reached.
        iterators: paths of iterators that were reached, which cannot be restored once they are advanced.
    """

    def __init__(self, module: nn.Module, also: Sequence[Any] = ()) -> None:
        self.modules: list[nn.Module] = []
        self.iterators: list[str] = []
        self.trackers: list[Any] = []
        self._restores: list[tuple[str, Callable[[], object]]] = []
        self._opaque: list[tuple[str, Any, Any]] = []
        self._seen: dict[int, Any] = {}  # keeps what it has seen alive, so that no number is given twice
        self._classes: set[type] = set()
        self._copies = IteratorCopies()
        self._left: str | None = None
        self._trainers: list[tuple[str, Any]] = []
        try:
            self._note_all(module, also)
        except BaseException:
            self.restore()
            raise

    def _note_all(self, module: nn.Module, also: Sequence[Any]) -> None:
        hooks = [(f"torch.nn.modules.module.{name}", getattr(torch_module, name)) for name in GLOBAL_HOOKS]
        self._follow([(type(module).__name__, module), *hooks])
        for one in also:
            self._seen[id(one)] = one
            self._follow(self._note_attributes(type(one).__name__, one))
        of_module = list(self.iterators)
        for path, trainer in self._trainers:
            of_run = {"callbacks": trainer.callbacks, "loggers": trainer.loggers}
            self._follow((f"{path}.{name}{at}", one) for name, held in of_run.items() for at, one in _numbered(held))
        self.iterators = of_module

    def _follow(self, values: Iterable[tuple[str, Any]]) -> None:
        waiting = deque(values)
        while waiting:
            path, value = waiting.popleft()
            if isinstance(value, ATOMS) or id(value) in self._seen:
                continue
            if len(self._seen) >= MOST:
                self._left = path
                break
            self._seen[id(value)] = value
            waiting.extend((f"{path}{name}", inner) for name, inner in self._note(path, value))

    def restore(self) -> list[str]:
        """Restore everything; returns the names of what could not be restored and has changed."""
        failed = [] if self._left is None else [f"{self._left} and everything after {MOST:,} objects"]
        with torch.no_grad():
            for path, restore in self._restores:
                try:
                    restore()
                except Exception as error:  # whatever it is, everything else is restored
                    failed.append(f"{path} ({type(error).__name__}: {error})")
        return failed + [path for path, value, before in self._opaque if fingerprint(value) != before]

    def _note(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Record how to restore one object; yields the names and values that it contains."""
        if hasattr(type(value), "__next__") and not isinstance(value, io.IOBase) and value not in self._copies:
            self.iterators.append(path)
        if isinstance(value, Tensor):
            self._restores.append((path, partial(restore_tensor, *noted_tensor(value))))
            yield from self._note_attributes(path, value)
        elif isinstance(value, torch.jit.ScriptModule):
            self.modules.append(value)
            yield from ((f".{name}", inner) for name, inner in (*value.named_parameters(), *value.named_buffers()))
        elif isinstance(value, (dict, list, set, deque, bytearray, array.array)):
            yield from self._note_container(path, value)
        elif isinstance(value, (tuple, frozenset)):
            yield from _numbered(value)
        elif isinstance(value, np.ndarray):
            if value.flags.writeable:
                self._restores.append((path, partial(np.copyto, value, value.copy())))
            yield from _numbered(value.ravel().tolist()) if value.dtype == object else ()
        elif (generator := generator_state(value)) is not None:
            self._restores.append((path, generator))
        elif (memory := restored_memory(value)) is not None:
            self._restores.append((path, memory))
        elif isinstance(value, (types.FunctionType, types.MethodType, partial)):
            yield from self._note_function(path, value)
        elif isinstance(value, memoryview):
            yield "", value.obj
        elif isinstance(value, WEAK):
            yield ".data", vars(value)["data"]
        elif isinstance(value, threading.local):
            yield from self._note_attributes(path, value)
        elif isinstance(value, ContextVar):
            if (content := value.get(MISSING)) is not MISSING:
                self._restores.append((path, partial(value.set, content)))
                yield "", content
        elif is_tracker(value):
            self.trackers.append(value)
        elif isinstance(value, lightning_classes("Trainer")):
            self._trainers.append((path, value))
        elif isinstance(value, nn.Module) or _is_plain_object(value):
            if isinstance(value, nn.Module):
                self.modules.append(value)
            yield from self._note_attributes(path, value)
        elif isinstance(value, Queue):
            self._restores.append((path, QueueTrace(value).restore))
        elif isinstance(value, VISIBLE) or not (
            isinstance(value, (types.ModuleType, types.BuiltinFunctionType)) or _is_foreign(value)
        ):
            self._opaque.append((path, value, fingerprint(value)))

    def _lend(self, values: Iterable[tuple[Any, Any]], put: Callable[[Any, Any], object]) -> None:
        """Put copies in the place of iterators, which cannot be restored, until their owner is."""
        for key, value in values:
            if (lent := self._copies.of(value)) is not None:
                put(key, lent)

    def _note_container(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            # By the methods of the built-in kind: a subclass may load or make what it does not hold yet.
            order = OrderedDict.__iter__(value) if isinstance(value, OrderedDict) else dict.__iter__(value)
            items = {key: dict.__getitem__(value, key) for key in order}
            self._restores.append((path, partial(restore_mapping, value, items)))
            self._lend(
                items.items(),
                partial(OrderedDict.__setitem__ if isinstance(value, OrderedDict) else dict.__setitem__, value),
            )
            yield from _numbered(items)
            yield from ((f"[{key!r}]" if isinstance(key, ATOMS) else "[...]", inner) for key, inner in items.items())
            return
        if isinstance(value, list):
            elements: Any = list.__getitem__(value, slice(None))
        else:
            elements = value[:] if isinstance(value, array.array) else value.copy()
        self._restores.append((path, partial(restore_elements, value, elements)))
        if isinstance(value, list):
            self._lend(enumerate(elements), partial(list.__setitem__, value))
        if not isinstance(value, (bytearray, array.array)):
            yield from _numbered(elements)

    def _note_function(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, types.MethodType):
            yield "", value.__self__
            yield "", value.__func__
        elif isinstance(value, partial):
            yield from (("", value.func), ("", value.args), ("", value.keywords))
        else:
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                try:
                    content = cell.cell_contents
                except ValueError:  # not bound yet
                    continue
                self._restores.append((f"{path}:{name}", partial(setattr, cell, "cell_contents", content)))
                self._lend([("cell_contents", content)], partial(setattr, cell))
                yield f":{name}", content
            named = dict(global_variables(value))
            self._restores.append((path, partial(restore_variables, value.__globals__, named)))
            self._lend(named.items(), value.__globals__.__setitem__)
            yield from ((f":{name}", inner) for name, inner in named.items())
            for owner, variables in named_namespaces(value):
                self._restores.append((f"{path}:{owner.__name__}", partial(restore_class, owner, variables)))
                self._lend(variables.items(), partial(setattr, owner))
                yield from ((f":{owner.__name__}.{name}", inner) for name, inner in variables.items())
            yield from ((f".{name}", inner) for name, inner in vars(value).items())
            yield from (("()", inner) for inner in (value.__defaults__, value.__kwdefaults__) if inner is not None)

    def _note_attributes(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        attributes = getattr(value, "__dict__", {})
        kept = dict(attributes)
        self._restores.append((path, partial(restore_attributes, attributes, kept)))
        self._lend(kept.items(), attributes.__setitem__)
        yield from ((f".{name}", inner) for name, inner in kept.items())
        if type(value) not in self._classes:
            self._classes.add(type(value))
            for kind, of_class in class_attributes(value):
                self._restores.append((f"{path}.__class__", partial(restore_class, kind, of_class)))
                self._lend(of_class.items(), partial(setattr, kind))
                yield from ((f".{name}", inner) for name, inner in of_class.items())
            yield from ((f".{name}", function) for name, function in code_of(value))
        for name in () if isinstance(value, (Tensor, nn.Module)) else _slots(value):
            if hasattr(value, name):
                inner = getattr(value, name)
                self._restores.append((f"{path}.{name}", partial(object.__setattr__, value, name, inner)))
                yield f".{name}", inner


def _numbered(values: Any) -> Iterator[tuple[str, Any]]:
    if not all(isinstance(value, ATOMS) for value in values):
        yield from ((f"[{place}]", value) for place, value in enumerate(values))


def _slots(value: Any) -> Iterator[str]:
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            if name not in ("__dict__", "__weakref__"):
                yield f"_{kind.__name__.lstrip('_')}{name}" if private else name


def _is_foreign(value: Any) -> bool:
    ours = any(kind.__module__.startswith("synbench_lightning.") for kind in type(value).__mro__)  # at work in a probe
    if ours or isinstance(value, (*OF_THE_RUN, *lightning_classes(*OF_LIGHTNING))):
        return True
    return f"{type(value).__module__}.".startswith(FOREIGN)


def _is_plain_object(value: Any) -> bool:
    if _is_foreign(value) or isinstance(value, io.IOBase):
        return False
    # That of a generic alias is of the class behind it, and cannot be written.
    return isinstance(getattr(value, "__dict__", None), dict) or any(True for _ in _slots(value))
