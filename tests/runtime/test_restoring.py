"""Restoring one object of a kind, where the snapshot of a module does not show it."""

import io
import os

import pytest
import torch

from synbench_lightning.runtime.restoring import noted_tensor, restore_tensor, restored_memory


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, 1).expand(2, 3), lambda: torch.zeros(1, 2, 1).expand(4, 2, 3), lambda: torch.zeros(2, 3),
        lambda: torch.zeros(1).expand(0), lambda: torch.zeros(()), lambda: torch.zeros(0, 3),
    ],
)  # fmt: skip
def test_of_an_expanded_tensor_each_element_of_its_memory_is_restored(make):
    value = make()
    noted = noted_tensor(value)
    value.untyped_storage().copy_(torch.full((value.untyped_storage().nbytes() // 4,), 5.0).untyped_storage())
    restore_tensor(*noted)
    assert torch.equal(value, torch.zeros_like(value))


def test_a_tensor_that_cannot_be_copied_is_left_as_it_is():
    class Opaque(torch.Tensor):
        def clone(self):
            raise NotImplementedError

    value = torch.zeros(2).as_subclass(Opaque)
    noted = noted_tensor(value)
    value.add_(1)
    restore_tensor(*noted)
    assert value.tolist() == [1, 1]


def test_the_position_in_a_file_that_is_read_is_restored_and_of_others_is_not(tmp_path):
    class Response(io.RawIOBase):
        """As those of HTTP clients, which count what they have read."""

        def readable(self):
            return True

        def tell(self):
            return 3

    (tmp_path / "file").write_bytes(bytes(9))
    with open(tmp_path / "file", "rb") as file:
        file.seek(4)
        restore = restored_memory(file)
        file.read()
        restore()
        assert file.tell() == 4
    assert restored_memory(file) is None  # closed
    with open(tmp_path / "file", "r+b") as file:
        assert restored_memory(file) is None
    assert restored_memory(Response()) is None
    read, write = os.pipe()
    with os.fdopen(read, "rb") as file, os.fdopen(write, "wb"):
        assert restored_memory(file) is None
