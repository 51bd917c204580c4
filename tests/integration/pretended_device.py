"""A device that pretends: real arithmetic, on the CPU, under another device type that has no float64.

It refuses what an accelerator refuses: float64, and tensors of two devices in one operation. ``synchronised`` has an
entry for each value that was brought to the host. A registered backend stays: use it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # before anything is replaced
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}  # by places on the CPU, too
TO_HOST = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}


class Backend:
    """The device's module, with one generator; it has no `get_rng_state_all`, as Apple's has none."""

    generator = torch.Generator().manual_seed(5)

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def get_rng_state(self) -> Tensor:
        return self.generator.get_state()

    def set_rng_state(self, state: Tensor) -> None:
        self.generator.set_state(state)

    def manual_seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    manual_seed_all = manual_seed

    def empty_cache(self) -> None:
        pass


backend = Backend()
_setup_privateuseone_for_python_backend(NAME, backend_module=backend)
DEVICE = torch.device(NAME, 0)
synchronised: list[str] = []


class OnDevice(Tensor):
    """A tensor of the device; ``values`` is what it pretends not to have on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Any:
        if values.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"Cannot convert to {values.dtype}: the {NAME} framework does not support it.")
        found = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        found.values = values
        return found

    def __repr__(self, **_: Any) -> str:
        return f"on {NAME}: {self.values!r}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """Carry an operation out on the CPU where it is one of the device, and wrap what is new."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    mine = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    asked = kwargs.get("device")
    if not mine and (asked is None or torch.device(asked).type != NAME):
        return func(*args, **kwargs)
    copies = func in (aten._to_copy.default, aten.copy_.default)
    if mine and not copies:
        others = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim > 0]
        if others and func not in INDEXED:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {NAME} and cpu: {func}")
    to_host = mine and asked is not None and torch.device(asked).type == "cpu"
    if to_host or func in TO_HOST or (func is aten.copy_.default and not isinstance(args[0], OnDevice)):
        synchronised.append(str(func))
    by_values = {id(tensor.values): tensor for tensor in mine}
    unwrapped_args, unwrapped = tree_map(
        lambda leaf: leaf.values if isinstance(leaf, OnDevice) else leaf, (args, kwargs)
    )
    if asked is not None:
        unwrapped["device"] = torch.device("cpu")
    if func in (aten.rand_like.default, aten.randn_like.default, aten.bernoulli_.float, aten.native_dropout.default):
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(backend.get_rng_state())
            found = func(*unwrapped_args, **unwrapped)
            backend.set_rng_state(torch.get_rng_state())
    else:
        found = func(*unwrapped_args, **unwrapped)
    if to_host:
        return found

    def wrapped(leaf: Any) -> Any:
        return by_values[id(leaf)] if id(leaf) in by_values else OnDevice(leaf)

    return tree_map(lambda leaf: wrapped(leaf) if isinstance(leaf, Tensor) else leaf, found)


class Factories(TorchDispatchMode):
    """Makes tensors with ``device="pretended"``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Conversions(TorchFunctionMode):
    """Makes tensors of numbers, which no dispatch mode sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == NAME:
            return func(*args, **{**kwargs, "device": None}).to(device)
        return func(*args, **kwargs)


class GeneratorType(type):
    """Generators of the device draw on the CPU: a backend in Python cannot have any of its own."""

    real = torch.Generator

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return cls.real()

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.real)


class Generator(metaclass=GeneratorType):
    pass


@contextmanager
def machine() -> Iterator[None]:
    """A machine that has the device."""
    torch.Generator = Generator  # type: ignore[misc, assignment]
    try:
        with Conversions(), Factories():
            yield
    finally:
        torch.Generator = GeneratorType.real  # type: ignore[misc]
