import copy
from dataclasses import replace

import torch
from torch import nn

from synbench_lightning import ProbePlan, evaluate
from synbench_lightning.cli.cache import cache_key, cached_result, default_folder, keep_result


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())


class Doubled(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


def test_equal_encoders_have_equal_keys():
    assert cache_key(encoder(), "a") == cache_key(copy.deepcopy(encoder()), "a")
    assert cache_key(encoder(), "a") == cache_key(encoder().requires_grad_(False), "a")


def test_whatever_changes_the_result_changes_the_key():
    keys = {cache_key(encoder(), "a"), cache_key(encoder(), "b")}
    for change in (
        lambda e: e[0].weight.data[0, 0].add_(1e-6),
        lambda e: e[1].running_mean.add_(1e-6),
        lambda e: e.half(),
        lambda e: e.append(nn.Tanh()),
        lambda e: e.__setitem__(2, Doubled()),
    ):
        changed = encoder()
        change(changed)
        keys.add(cache_key(changed, "a"))
    assert len(keys) == 7


def test_weights_in_bfloat16_and_empty_ones_have_keys():
    assert cache_key(encoder().bfloat16(), "a") != cache_key(encoder(), "a")
    assert cache_key(nn.Flatten(), "a")


def test_a_result_is_kept_as_it_is(tmp_path):
    result = evaluate(encoder(), (4,), plan=ProbePlan(forwards=768))
    keep_result(tmp_path / "a" / "new", "key", result)
    assert cached_result(tmp_path / "a" / "new", "key") == result
    keep_result(tmp_path / "a" / "new", "key", replace(result, seed=1))
    assert cached_result(tmp_path / "a" / "new", "key").seed == 1
    assert [path.name for path in (tmp_path / "a" / "new").iterdir()] == ["key.json"]
    assert cached_result(tmp_path, "key") is None


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    keep_result(tmp_path / "file" / "below", "key", evaluate(encoder(), (4,), plan=ProbePlan(forwards=768)))


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_folder() == tmp_path / "synbench"
        patched.delenv("XDG_CACHE_HOME")
        patched.setenv("HOME", "/home/someone")
        assert str(default_folder()) == "/home/someone/.cache/synbench"
