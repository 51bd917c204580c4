"""What of a probe is logged, and under which key."""

from __future__ import annotations

from synbench_lightning.probe.result import ProbeResult


def logged_values(result: ProbeResult, threshold: float) -> dict[str, float]:
    """The values of a result that are logged, by their keys without prefix; what they mean: :class:`SynBenchCallback`.

    Args:
        result: of a probe.
        threshold: threshold accuracy of the scores.
    """
    values = {"score": result.score(threshold=threshold)}
    values |= {f"score_eps_{e:.2f}": result.score(epsilon=e, threshold=threshold) for e in result.epsilons if e}
    aggregates = result.aggregates(threshold=threshold)
    values |= {name: found.value for name, found in aggregates.items()}
    errors = {f"{name}_se": found.standard_error for name, found in aggregates.items()}
    values |= {f"task/{task}": score for task, score in result.task_scores(threshold=threshold).items()}
    optional = {
        **errors,
        "score_se": result.standard_error(threshold=threshold),
        "alpha_req": result.alpha_req,
        "information": result.information,
        "information_se": result.information_error,
        "readout": result.readout,
        "readout_se": result.readout_error,
    }
    values |= {key: value for key, value in optional.items() if value is not None}
    values |= {"effective_rank": result.effective_rank, "feature_std": result.feature_std}
    return {**values, "accuracy": result.mean_accuracy(), "probe_seconds": result.seconds}
