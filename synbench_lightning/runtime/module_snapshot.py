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
from itertools import islice
from queue import Queue, SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules import module as torch_module
from torch.utils.data.dataloader import _BaseDataLoaderIter

from synbench_lightning.runtime.experiment_trackers import is_tracker
from synbench_lightning.runtime.fingerprints import fingerprint
from synbench_lightning.runtime.iterator_copies import IteratorCopies
from synbench_lightning.runtime.lightning_packages import lightning_classes
from synbench_lightning.runtime.named_in_code import MISSING, UsersCode
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
from synbench_lightning.runtime.run_state import (
    COPY_BYTES,
    MOST_ELEMENTS,
    behind_trainer,
    belongs_to_run,
    named_attributes,
    packages_of_run,
)
from synbench_lightning.runtime.sharding import has_shards

MOST = 200_000  # mutants: memory and time alone
"""Maximum number of objects that are followed; exceeding it triggers a warning. Each takes a few microseconds."""

ATOMS = (int, float, complex, bool, str, bytes, type(None), type, type(Ellipsis), torch.dtype, torch.device, torch.Size)
FOREIGN = (
    "torch.utils.data.", "torch.optim.", "torch.distributed.", "torch._dynamo.", "torch.utils.hooks", "torch.fx.",
    "logging.", "threading.", "concurrent.", "multiprocessing.", "socket.", "weakref.", "_thread.", "queue.",
    "asyncio.", "subprocess.", "tqdm.", "rich.", "matplotlib.", "torch.utils.tensorboard.", "tensorboard.",
    "tensorboardX.", "wandb.", "mlflow.", "comet_ml.", "neptune.",
)  # fmt: skip
"""Packages whose objects belong to the process and not to the model, or have irreversible effects; not followed."""
WEAK = WeakKeyDictionary, WeakValueDictionary, WeakSet
VISIBLE = SimpleQueue, _BaseDataLoaderIter
"""What is of a foreign package, and is named where it has changed."""
CALLED = {"forward", "__call__"}
"""Methods that run when an object is called."""
GLOBAL_HOOKS = ("_global_forward_pre_hooks", "_global_forward_hooks")
"""torch's registries of hooks that run in the forward of every module."""


class ModuleSnapshot:
    """The state of a module at construction of this object.

    Followed are modules, registered or not, their hooks and the hooks of all modules, nested containers,
    instances of the user's classes and the attributes of these classes, the variables of closures, the module-level
    variables that hooks and forwards name, tensors, arrays and generators of random numbers. Of a trainer the user's
    callbacks and loggers are followed, after everything else. Of data sets, data modules, samplers, optimizers, and
    objects of Lightning's own classes, those attributes are that this code names, too (:mod:`.run_state`).

    Args:
        module: the root module, if there is one.
        also: other functions whose code is followed, too.

    Attributes:
        modules: all modules that were reached.
        trackers: clients of experiment trackers that were reached.
        iterators: paths of iterators that were reached, which cannot be restored once they are advanced.
    """

    def __init__(self, module: nn.Module | None, also: Sequence[Callable[..., Any]] = ()) -> None:
        self.modules: list[nn.Module] = []
        self.iterators: list[str] = []
        self.trackers: list[Any] = []
        self._restores: list[tuple[str, Callable[[], object]]] = []
        self._opaque: list[tuple[str, Any, Any]] = []
        self._seen: dict[int, Any] = {}  # keeps what it has seen alive, so that no number is given twice
        self._code = UsersCode(packages_of_run(module))
        self._classes: dict[type, str] = {}
        self._of_run: dict[int, tuple[str, Any]] = {}
        self._names: dict[str, None] = {}
        self._done: dict[Any, int] = {}
        self._copies = IteratorCopies()
        self._in_run = False
        self._sharded = module is not None and has_shards(module)
        self._left: str | None = None
        try:
            self._note_all(module, also)
        except BaseException:
            self.restore()
            raise

    def _note_all(self, module: nn.Module | None, also: Sequence[Callable[..., Any]]) -> None:
        hooks = [(f"torch.nn.modules.module.{name}", getattr(torch_module, name)) for name in GLOBAL_HOOKS]
        functions = ((getattr(one, "__qualname__", type(one).__name__), one) for one in also)
        self._follow([(type(module).__name__, module), *hooks, *functions])
        self._follow_names()
        of_module = list(self.iterators)
        for path, trainer in list(self._of_run.values()):
            if isinstance(trainer, lightning_classes("Trainer")):
                held = ("callbacks", trainer.callbacks), ("loggers", trainer.loggers)
                self._follow((f"{path}.{name}{at}", one) for name, kept in held for at, one in _numbered(kept))
        self._in_run = True
        self._follow_names()
        self.iterators = of_module

    def _follow_names(self) -> None:
        """Follow what the code names of its classes and of the run, and what that code names in turn."""
        known: tuple[int, ...] = ()
        while known != (known := (len(self._classes), len(self._of_run), len(self._names))):
            for kind, path in list(self._classes.items()):
                methods = self._code.methods(kind, self._new_names(kind))
                self._follow((f"{path}.{name}", method) for name, method in methods)
            for number, (path, value) in list(self._of_run.items()) if self._in_run else ():
                new = self._new_names(number)
                kept = named_attributes(value, new)
                self._restores.append((path, partial(restore_variables, getattr(value, "__dict__", {}), kept)))
                behind = behind_trainer(value, new) if isinstance(value, lightning_classes("Trainer")) else ()
                self._follow((f"{path}.{name}", one) for name, one in (*kept.items(), *behind) if one is not MISSING)

    def _new_names(self, key: Any) -> set[str]:
        """The names that were found since the last call with this key."""
        new = set(islice(self._names, self._done.get(key, 0), None))
        self._done[key] = len(self._names)
        return new

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
            limit = MOST_ELEMENTS if self._in_run else None
            inner = list(islice(self._note(path, value), limit))
            if len(inner) != limit:
                waiting.extend((f"{path}{name}", one) for name, one in inner)

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
        if self._sharded and isinstance(value, (nn.Parameter, DTensor)):
            return  # FSDP gathers and frees these itself
        if self._in_run and isinstance(value, (Tensor, np.ndarray)) and value.nbytes > COPY_BYTES:
            self._opaque.append((path, value, fingerprint(value)))
        elif isinstance(value, Tensor):
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
        elif belongs_to_run(value) and not isinstance(value, nn.Module) and not _is_ours(value):
            self._of_run[id(value)] = path, value
            self._classes.setdefault(type(value), path)
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
            self._names |= dict.fromkeys(self._code.names(value))
            named = dict(self._code.global_variables(value))
            self._restores.append((path, partial(restore_variables, value.__globals__, named)))
            self._lend(named.items(), value.__globals__.__setitem__)
            yield from ((f":{name}", inner) for name, inner in named.items())
            for owner, variables in self._code.named_namespaces(value):
                self._restores.append((f"{path}:{owner.__name__}", partial(restore_class, owner, variables)))
                self._lend(variables.items(), partial(setattr, owner))
                yield from ((f":{owner.__name__}.{name}", inner) for name, inner in variables.items())
            yield from ((f".{name}", inner) for name, inner in vars(value).items())
            yield from (("()", inner) for inner in (value.__defaults__, value.__kwdefaults__) if inner is not None)

    def _note_attributes(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        attributes = getattr(value, "__dict__", {})
        kept = dict(attributes)
        self._restores.append((path, partial(restore_attributes, attributes, kept.copy())))
        if self._sharded and isinstance(value, nn.Module):
            del kept["_parameters"]
        self._lend(kept.items(), attributes.__setitem__)
        yield from ((f".{name}", inner) for name, inner in kept.items())
        if type(value) not in self._classes:
            self._classes[type(value)] = path
            for kind, of_class in self._code.class_attributes(value):
                self._restores.append((f"{path}.__class__", partial(restore_class, kind, of_class)))
                self._lend(of_class.items(), partial(setattr, kind))
                yield from ((f".{name}", inner) for name, inner in of_class.items())
            yield from ((f".{name}", method) for name, method in self._code.methods(type(value), CALLED))
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


def _is_ours(value: Any) -> bool:
    """Whether an object is of a class of this package, and at work in a probe."""
    return any(kind.__module__.startswith("synbench_lightning.") for kind in type(value).__mro__)


def _is_foreign(value: Any) -> bool:
    return _is_ours(value) or isinstance(value, threading.Thread) or f"{type(value).__module__}.".startswith(FOREIGN)


def _is_plain_object(value: Any) -> bool:
    if _is_foreign(value) or isinstance(value, (io.IOBase, types.ModuleType)):
        return False
    # That of a generic alias is of the class behind it, and cannot be written.
    return isinstance(getattr(value, "__dict__", None), dict) or any(True for _ in _slots(value))
