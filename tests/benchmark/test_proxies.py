"""Proxy tasks as a benchmark with labels."""

import math

import pytest

from synbench_lightning import labelled_proxies


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (1.0, math.inf)])
def test_scales_are_positive_and_finite(scales):
    with pytest.raises(ValueError, match="`scales` must be positive numbers, at least one"):
        labelled_proxies("dc", (1, 8, 8), scales=scales)


def test_each_class_has_its_mean_on_its_side_of_the_direction():
    benchmark = labelled_proxies("dc", (1, 4, 4), scales=(1.0, 3.0), examples=400)
    for scale, name in ((1.0, "dc@1"), (3.0, "dc@3")):
        inputs, labels = zip(*benchmark[name], strict=True)
        along = [float(x.sum()) / 4 * (2 * int(y) - 1) for x, y in zip(inputs, labels, strict=True)]
        assert sum(along) / 400 == pytest.approx(scale, abs=0.2)  # four standard errors
