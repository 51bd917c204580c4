import torch

from synbench_lightning.functional.jackknife import jackknife_error


def test_of_a_mean_it_is_the_standard_error_of_the_mean():
    values = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    without = (values.sum(0) - values) / 8
    torch.testing.assert_close(jackknife_error(values.mean(0), without), values.std(0) / 9**0.5)
