"""Snapshot all mutable state reachable from a module, and restore it by reference and by value."""

from __future__ import annotations

import array
import io
import pickle
import random
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

from synbench_lightning.runtime.lightning_packages import lightning_classes
from synbench_lightning.runtime.named_in_code import MISSING, class_attributes, code_of, global_variables

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
QUEUES = Queue, SimpleQueue
"""Queues between threads: removed items cannot be restored."""
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
        iterators: paths of iterators that were reached, which cannot be restored once they are advanced.
    """

    def __init__(self, module: nn.Module, also: Sequence[Any] = ()) -> None:
        self.modules: list[nn.Module] = []
        self.iterators: list[str] = []
        self._restores: list[tuple[str, Callable[[], object]]] = []
        self._opaque: list[tuple[str, Any, Any]] = []
        self._seen: dict[int, Any] = {}  # keeps what it has seen alive, so that no number is given twice
        self._classes: set[type] = set()
        self._left: str | None = None
        self._trainers: list[tuple[str, Any]] = []
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
        return failed + [path for path, value, before in self._opaque if _fingerprint(value) != before]

    def _note(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Record how to restore one object; yields the names and values that it contains."""
        if hasattr(type(value), "__next__") and not isinstance(value, io.IOBase):
            self.iterators.append(path)
        if isinstance(value, Tensor):
            self._restores.append((path, partial(_restore_tensor, *_noted_tensor(value))))
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
        elif (generator := _generator_state(value)) is not None:
            self._restores.append((path, generator))
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
        elif isinstance(value, lightning_classes("Trainer")):
            self._trainers.append((path, value))
        elif isinstance(value, nn.Module) or _is_plain_object(value):
            if isinstance(value, nn.Module):
                self.modules.append(value)
            yield from self._note_attributes(path, value)
        elif isinstance(value, QUEUES) or not (
            isinstance(value, (types.ModuleType, types.BuiltinFunctionType)) or _is_foreign(value)
        ):
            self._opaque.append((path, value, _fingerprint(value)))

    def _note_container(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            # By the methods of the built-in kind: a subclass may load or make what it does not hold yet.
            order = OrderedDict.__iter__(value) if isinstance(value, OrderedDict) else dict.__iter__(value)
            items = {key: dict.__getitem__(value, key) for key in order}
            self._restores.append((path, partial(_restore_mapping, value, items)))
            yield from _numbered(items)
            yield from ((f"[{key!r}]" if isinstance(key, ATOMS) else "[...]", inner) for key, inner in items.items())
            return
        if isinstance(value, list):
            elements: Any = list.__getitem__(value, slice(None))
        else:
            elements = value[:] if isinstance(value, array.array) else value.copy()
        self._restores.append((path, partial(_restore_elements, value, elements)))
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
                yield f":{name}", content
            named = dict(global_variables(value))
            self._restores.append((path, partial(_restore_variables, value.__globals__, named)))
            yield from ((f":{name}", inner) for name, inner in named.items())
            yield from ((f".{name}", inner) for name, inner in vars(value).items())

    def _note_attributes(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        attributes = getattr(value, "__dict__", {})
        kept = dict(attributes)
        self._restores.append((path, partial(_restore_attributes, attributes, kept)))
        yield from ((f".{name}", inner) for name, inner in kept.items())
        for kind, of_class in () if type(value) in self._classes else class_attributes(value):
            self._restores.append((f"{path}.__class__", partial(_restore_class, kind, of_class)))
            yield from ((f".{name}", inner) for name, inner in of_class.items())
        self._classes.add(type(value))
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


def _noted_tensor(value: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, bool, Tensor | None]:
    """The tensor, its present memory and values, ``requires_grad``, and its gradient, which is detached from it.

    A forward that runs its own backward pass then accumulates into another gradient.
    """
    wanted, gradient = value.requires_grad, value.grad if value.is_leaf else None
    try:
        memory = value.data  # another name for the same memory; writing to it bumps no version counter
        values = _copy(memory)
    except Exception:  # a kind of tensor that has no such thing is put back by reference alone
        return value, None, None, wanted, gradient
    if gradient is not None:
        value.grad = None
    return value, memory, values, wanted, gradient


def _copy(memory: Tensor) -> Tensor:
    try:
        return memory.clone()
    except torch.OutOfMemoryError:
        return memory.cpu()


def _restore_tensor(
    value: Tensor, memory: Tensor | None, kept: Tensor | None, wanted: bool, gradient: Tensor | None
) -> None:
    if memory is None or kept is None:
        return
    if memory.layout != torch.strided or memory.is_nested:
        value.copy_(kept)  # such a tensor has no one place that another name would share
    else:
        if _place(value) != _place(memory):
            value.data = memory
        for dim, (size, stride) in enumerate(zip(memory.shape, memory.stride(), strict=True)):
            if size > 1 and stride == 0:  # an expanded dimension is one element
                memory, kept = memory.narrow(dim, 0, 1), kept.narrow(dim, 0, 1)
        if not memory.is_meta and not _unchanged(memory, kept):
            memory.copy_(kept)
    if value.is_leaf:
        if value.requires_grad != wanted:
            value.requires_grad_(wanted)
        if value.grad is not gradient:
            value.grad = gradient


def _unchanged(memory: Tensor, kept: Tensor) -> bool:
    """Whether nothing has to be written: CPU memory may be a read-only memory-mapped file."""
    return memory.device.type == "cpu" and torch.equal(memory, kept)


def _place(value: Tensor) -> Any:
    """Identifies the memory of a tensor and its layout."""
    return value.data_ptr(), value.shape, value.stride(), value.dtype, value.device


def _restore_mapping(value: dict[Any, Any], kept: dict[Any, Any]) -> None:
    base = OrderedDict if isinstance(value, OrderedDict) else dict
    base.clear(value)
    for key, inner in kept.items():
        base.__setitem__(value, key, inner)


def _restore_elements(value: Any, kept: Any) -> None:
    # By the methods of the built-in kind, whatever a subclass does when it is written.
    if isinstance(value, set):
        set.clear(value)
        set.update(value, kept)
    elif isinstance(value, deque):
        deque.clear(value)
        deque.extend(value, kept)
    elif isinstance(value, list):
        list.__setitem__(value, slice(None), kept)
    else:
        value[:] = kept


def _restore_attributes(attributes: dict[str, Any], kept: dict[str, Any]) -> None:
    for name in attributes.keys() - kept.keys():
        del attributes[name]
    attributes.update(kept)


def _restore_variables(variables: dict[str, Any], kept: dict[str, Any]) -> None:
    for name, value in kept.items():
        if variables.get(name, MISSING) is not value:
            if value is MISSING:
                del variables[name]
            else:
                variables[name] = value


def _restore_class(kind: type, kept: dict[str, Any]) -> None:
    for name, value in kept.items():
        if vars(kind).get(name, MISSING) is not value:
            setattr(kind, name, value)


def _generator_state(value: Any) -> Callable[[], None] | None:
    """A function that restores a random number generator; ``None`` for anything else."""
    if isinstance(value, torch.Generator):
        return partial(_call, value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.BitGenerator):
        return partial(setattr, value, "state", value.state)
    if isinstance(value, np.random.RandomState):
        return partial(_call, value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(_call, value.setstate, value.getstate())
    return None


def _call(function: Callable[[Any], Any], argument: Any) -> None:
    function(argument)


def _fingerprint(value: Any) -> Any:
    """A value that changes with an object that cannot be restored, as far as that is visible."""
    try:
        if isinstance(value, QUEUES):
            return value.qsize()
        if isinstance(value, types.GeneratorType):
            return None if value.gi_frame is None else value.gi_frame.f_lasti
        if isinstance(value, io.IOBase):
            return value.tell()
        shown = repr(value)  # iterators of itertools show where they stand
        return shown if "object at 0x" not in shown else pickle.dumps(value)
    except Exception:
        return None
