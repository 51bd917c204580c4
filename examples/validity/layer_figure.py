"""The picture of one run of the study: what information and labels say of its layers."""

from __future__ import annotations

from collections.abc import Sequence

from synbench_lightning.plots.style import Figure, in_style
from validity.answers import Row
from validity.layer_answers import LayerRun, runs_of

DRAWN = ("digits", "rotation", "conv-6", 0)


@in_style
def layers_figure(rows: Sequence[Row]) -> Figure:
    """Information and linear-probe accuracy of each layer at each checkpoint of one run, side by side.

    Raises:
        ValueError: if the rows have no run such as :data:`DRAWN`.
    """
    found = [run for run in runs_of(rows) if (run.images, run.regime, run.encoder, run.seed) == DRAWN]
    if not found:
        raise ValueError(f"The results have no run {DRAWN}.")
    run: LayerRun = found[0]
    figure = Figure(figsize=(7.2, 2.5), dpi=160, layout="constrained")
    titles = {"Information under views (nats)": run.predictors["information"], "Linear-probe accuracy": run.accuracy}
    for axes, (title, values) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        axes.grid(False)
        image = axes.imshow(values.T, aspect="auto", cmap="viridis", origin="lower", interpolation="nearest")
        axes.scatter(range(len(values)), values.argmax(1), s=14, color="white", edgecolors="black")
        axes.set_xticks(range(len(run.steps)), [f"{step:.0f}" for step in run.steps])
        axes.set_yticks(range(values.shape[1]), [f"block {layer + 1}" for layer in range(values.shape[1])])
        axes.set(title=title, xlabel="optimizer steps")
        figure.colorbar(image, ax=axes)
    return figure
