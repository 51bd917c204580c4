"""Log messages about layers: which are compared, which is best, and which to use at the end."""

from __future__ import annotations

from collections.abc import Sequence

from synbench_lightning.functional.representation.information import WIDTH_RATIO, comparable_widths
from synbench_lightning.probe.layers import BestLayer, output_layer
from synbench_lightning.probe.result import ProbeResult

CLEAR = 2.0
"""Standard errors above which a margin is significant."""


class LayerAdvice:
    """Messages for the log, each at most once or when the best layer has changed.

    Args:
        prefix: of the logged keys.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._listed = False
        self._best: str | None = None

    def probed(self, result: ProbeResult) -> list[str]:
        """Messages after a probe."""
        if not result.layers:
            return []
        sentences, best = [], result.best_layer
        if not self._listed:
            self._listed = True
            sentences.append(self._listing(result))
        if best is not None and best.margin_in_errors > CLEAR and best.layer.name != self._best:
            self._best = best.layer.name
            sentences.append(
                f"SynBench: among the layers, `{best.layer.name}` now has the highest {result.layer_key}, "
                f"{_margin(result, best)}."
            )
        return sentences

    def ended(self, history: Sequence[ProbeResult], encoder: str | None = None) -> str | None:
        """The message at the end of a run: which layer of which step to use; ``None`` if layers were not compared.

        Args:
            history: all probes of the run.
            encoder: dotted name of the encoder, ``""`` for the whole module; ``None`` where it has no name.
        """
        compared = [result for result in history if result.best_layer is not None and result.compares(history[-1])]
        if not compared:
            return None
        chosen = max(compared, key=_value)
        number, best = sum(not layer.head for layer in chosen.layers), chosen.best_layer
        assert best is not None
        where = f"at step {chosen.step or 0:,}"
        among = f"SynBench: of {number} layers at {len(compared)} probe{'s' if len(compared) > 1 else ''}"
        if best.layer is output_layer(chosen.layers):
            return f"{among}, the encoder's output {where} has the highest {chosen.layer_key}: use it as it is."
        if best.margin_in_errors <= CLEAR:
            return f"{among}, none {where} can be distinguished from the encoder's output by its {chosen.layer_key}."
        return (
            f"{among}, `{best.layer.name}` {where} has the highest {chosen.layer_key}, {_margin(chosen, best)}."
            f"{_how(best.layer.name, encoder)}"
        )

    def _listing(self, result: ProbeResult) -> str:
        layers, output = [layer for layer in result.layers if not layer.head], output_layer(result.layers)
        names, heads = (
            ", ".join(f"`{layer.name}` ({layer.width})" for layer in result.layers if layer.head == head)
            for head in (False, True)
        )
        ranked = sum(comparable_widths(layer.width, output.width) for layer in layers)
        sentence = f"SynBench compares {len(layers)} layers (width): {names}, the last of which is the output."
        if len(layers) == 1:
            sentence = f"SynBench evaluates one layer (width), the encoder's output: {names}."
        if heads:
            sentence += f" Heads are evaluated but not ranked: {heads}."
        if ranked == len(layers):
            return sentence
        left = "the others are not ranked" if ranked > 1 else "none is ranked"
        return f"{sentence} Only layers at most {WIDTH_RATIO} times as wide or narrow are comparable to it: {left}."


def _how(layer: str, encoder: str | None) -> str:
    """How to use a layer: in a callback, and after training."""
    if encoder is None or not layer.startswith(f"{encoder}." if encoder else ""):
        return ""
    owner, inner = (f"model.{encoder}", layer.removeprefix(encoder)[1:]) if encoder else ("model", layer)
    return f' To use it: `encoder="{layer}"`, or after training `LayerEncoder({owner}, "{inner}")`.'


def _margin(result: ProbeResult, best: BestLayer) -> str:
    other = "the second best" if best.layer is output_layer(result.layers) else "the encoder's output"
    return f"{best.margin:.2g} ({best.margin_in_errors:.1f} standard errors) above {other}"


def _value(result: ProbeResult) -> float:
    assert result.best_layer is not None
    value = result.best_layer.layer.value(result.layer_key)
    assert value is not None
    return value
