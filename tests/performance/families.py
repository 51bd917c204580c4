"""Which proxy tasks are worth a place in a family: which tell encoders apart, and say something of their own.

python -m tests.performance.families [--seeds 2] [--steps 300]

Encoders of digits in 16 x 16 pixels: a convolutional network with its map flattened, one that averages it, a
transformer and a perceptron, each untrained, trained to classify, to reconstruct, and to tell views of one image from
others. A task is dead for an encoder where it scores less than .05. `told apart` is the scatter of a task's score over
the encoders in units of its standard error, `nearest` the task whose scores over the encoders correlate most with its
own (Spearman).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from synbench_lightning import GaussianTask, ProbePlan, ProbeResult, evaluate, task_family
from tests.performance.encoders import digit_images
from tests.performance.tables import print_table

SHAPE = (1, 16, 16)
NAMES = ("smooth", "random", "patches", "natural", "correlated")
OBJECTIVES = ("untrained", "classify", "reconstruct", "contrast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--forwards", type=int, default=2048, help="of each task")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {task.name: task for name in NAMES for task in task_family(name, SHAPE)}
    results, names = [], []
    for seed in range(given.seeds):
        for objective in OBJECTIVES:
            for kind in ARCHITECTURES:
                encoder = trained(kind, objective, given.steps if objective != "untrained" else 0, seed)
                results.append(probed(encoder, list(tasks.values()), given.forwards))
                names.append(f"{kind}, {objective}")
    print(f"{len(results)} encoders; {given.forwards:,} forwards for each task\n")
    print_table(
        "task | mean score | sd between encoders | told apart | dead for | nearest | rank correlation", rows(results)
    )
    print("Mean score by encoder\n")
    print_table("encoder | " + " | ".join(tasks), by_encoder(names, results))


def probed(encoder: nn.Module, tasks: Sequence[GaussianTask], forwards: int) -> ProbeResult:
    """One probe of all tasks; those of one colour share a covariance."""
    return evaluate(encoder, SHAPE, tasks=tasks, plan=ProbePlan(forwards=forwards * len(tasks)))


def rows(results: Sequence[ProbeResult]) -> Iterator[Sequence[object]]:
    names = results[0].tasks
    scores = np.array([list(result.task_scores().values()) for result in results])
    errors = np.array([[result.standard_error(task) for task in names] for result in results], dtype=float)
    related = np.array(spearmanr(scores).statistic)
    np.fill_diagonal(related, -1)
    for place, name in enumerate(names):
        sd, error = scores[:, place].std(ddof=1), errors[:, place].mean()
        other = int(related[place].argmax())
        dead = f"{(scores[:, place] < 0.05).mean():.0%}"
        yield (
            *(name, scores[:, place].mean().item(), sd.item(), f"{sd / error:.1f}", dead),
            *(names[other], f"{related[place, other]:.2f}"),
        )


def by_encoder(names: Sequence[str], results: Sequence[ProbeResult]) -> Iterator[Sequence[object]]:
    for name in dict.fromkeys(names):
        of_name = [list(r.task_scores().values()) for n, r in zip(names, results, strict=True) if n == name]
        yield name, *(f"{value:.2f}" for value in np.mean(of_name, 0))


def _conv(*last: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *last)


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 48, 4, 4)
        self.place = nn.Parameter(0.1 * torch.randn(1, 16, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.blocks(self.embed(x).flatten(2).transpose(1, 2) + self.place)
        return tokens.mean(1)


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: _conv(nn.Flatten(), nn.Linear(512, 64)),
    "convolutions, mean": lambda: _conv(nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "transformer, mean": _Transformer,
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU()),
}


def trained(kind: str, objective: str, steps: int, seed: int) -> nn.Module:
    """An encoder after some steps of Adam on digits; one thread, so that it is the same on each machine of a kind."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        images, labels = digit_images()
        images = nn.functional.interpolate(images, scale_factor=2)
        encoder = ARCHITECTURES[kind]()
        dim = encoder(images[:2]).shape[1]
        head = nn.Linear(dim, {"classify": 10, "reconstruct": 256}.get(objective, 32))
        optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3)
        for _ in range(steps):
            chosen = torch.randint(len(images), (128,))
            x = images[chosen]
            views = [x + 0.3 * torch.randn_like(x) for _ in range(2)]
            first, second = (head(encoder(view)) for view in views)
            if objective == "classify":
                loss = nn.functional.cross_entropy(first, labels[chosen])
            elif objective == "reconstruct":
                loss = nn.functional.mse_loss(first, x.flatten(1))
            else:
                first, second = nn.functional.normalize(first, dim=1), nn.functional.normalize(second, dim=1)
                loss = nn.functional.cross_entropy(first @ second.T / 0.2, torch.arange(len(x)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return encoder.eval()


if __name__ == "__main__":
    main()
