"""Convex problems whose minimax optimum a solver of another kind finds, and the rates that theory promises."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from synbench_lightning import TaskRobustLoss

GROUPS, EXAMPLES, DIM = 4, 30, 3


class LeastSquares:
    """Groups of different size of noise and different truth, at one set of coefficients."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.inputs = rng.normal(size=(GROUPS, EXAMPLES, DIM)) * rng.uniform(0.5, 1.5, (GROUPS, 1, DIM))
        noise = rng.normal(size=(GROUPS, EXAMPLES)) * np.linspace(0.2, 1.2, GROUPS)[:, None]
        self.targets = np.einsum("gnd,gd->gn", self.inputs, rng.normal(size=(GROUPS, DIM))) + noise
        self.x, self.y = torch.tensor(self.inputs), torch.tensor(self.targets)

    def losses(self, theta):
        return (torch.einsum("gnd,d->gn", self.x, theta) - self.y).square().mean(1)

    def numpy_losses(self, theta):
        return ((self.inputs @ theta - self.targets) ** 2).mean(1)

    def optimum(self):
        """The least t with all losses below it, and where."""
        start = np.append(np.zeros(DIM), self.numpy_losses(np.zeros(DIM)).max())
        found = minimize(
            lambda z: z[-1], start, method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
            constraints={"type": "ineq", "fun": lambda z: z[-1] - self.numpy_losses(z[:-1])},
        )  # fmt: skip
        return found.x[-1], torch.tensor(found.x[:-1])

    def smoothness(self):
        return max(np.linalg.eigvalsh(2 * x.T @ x / EXAMPLES)[-1] for x in self.inputs)

    def steepest(self, radius_around, radius):
        """An upper bound of the norm of a group's gradient within a ball."""
        at_centre = max(np.linalg.norm(2 * x.T @ (x @ radius_around - y) / EXAMPLES) for x, y in zip(
            self.inputs, self.targets, strict=True
        ))  # fmt: skip
        return at_centre + self.smoothness() * radius


PROBLEM = LeastSquares()


def exact(mode, k=GROUPS, **arguments):
    return TaskRobustLoss(k, mode, relative=False, momentum=0.0, **arguments)


def descend(loss, theta, step, steps, losses_of=PROBLEM.losses):
    """Each iterate of gradient descent, the start first."""
    theta = theta.clone().requires_grad_()
    for _ in range(steps):
        yield theta.detach().clone()
        (gradient,) = torch.autograd.grad(loss(losses_of(theta)), theta)
        with torch.no_grad():
            theta -= step * gradient
    yield theta.detach().clone()


@pytest.mark.parametrize("error", [1.0, 0.5, 0.2])
def test_softmax_descent_reaches_an_error_within_the_steps_of_theory(error):
    best, at = PROBLEM.optimum()
    distance = at.norm().item()
    temperature = error / (2 * math.log(GROUPS))
    # F has smoothness S = L + G²/mu near the path, and descent with 1/S an error of S D²/2T after T steps.
    smoothness = PROBLEM.smoothness() + PROBLEM.steepest(at.numpy(), distance) ** 2 / temperature
    steps = math.ceil(smoothness * distance**2 / error)
    *_, theta = descend(exact("softmax", temperature=temperature), torch.zeros(DIM).double(), 1 / smoothness, steps)
    assert PROBLEM.losses(theta).max().item() - best <= error


@pytest.mark.parametrize("steps", [100, 1000])
def test_exponentiated_gradient_has_an_error_below_the_regret_bound_on_average(steps):
    best, at = PROBLEM.optimum()
    distance = at.norm().item()
    steepest = PROBLEM.steepest(at.numpy(), 2 * distance)
    rate, step = 0.1, distance / (steepest * math.sqrt(steps))
    path = list(descend(exact("exponentiated_gradient", step_size=rate), torch.zeros(DIM).double(), step, steps))
    error = PROBLEM.losses(torch.stack(path[:-1]).mean(0)).max().item() - best
    # Regret of the coefficients, D²/2a + a G² T/2, and of the weights that have seen the losses, log k / eta; over T.
    assert error <= distance * steepest / math.sqrt(steps) + math.log(GROUPS) / (rate * steps)
    assert max((theta - at).norm() for theta in path) <= 2 * distance  # where the bound of the gradients holds


def test_every_mode_ends_at_the_optimum_of_the_solver_and_the_mean_elsewhere():
    best, at = PROBLEM.optimum()
    start = torch.zeros(DIM, dtype=torch.float64)
    *_, smooth = descend(exact("softmax", temperature=0.02), start, 0.002, 1500)
    *_, weighted = descend(exact("exponentiated_gradient", step_size=0.05), start, 0.01, 1500)
    *_, averaged = descend(exact("softmax", floor=1.0), start, 0.01, 1000)
    assert PROBLEM.losses(smooth).max().item() == pytest.approx(best, abs=0.02 * math.log(GROUPS))
    torch.testing.assert_close(smooth, at, rtol=0, atol=0.02)
    assert PROBLEM.losses(weighted).max().item() == pytest.approx(best, abs=0.01)
    assert PROBLEM.losses(averaged).max().item() > best + 0.3


def test_linear_losses_on_a_box_reach_the_value_of_the_linear_program():
    rng = np.random.default_rng(3)
    slopes, offsets = rng.normal(size=(5, 2)), rng.normal(size=5)
    program = linprog(
        [0, 0, 1], A_ub=np.c_[slopes, -np.ones(5)], b_ub=-offsets, bounds=[(-1, 1), (-1, 1), (None, None)]
    )
    a, b = torch.tensor(slopes), torch.tensor(offsets)
    loss, theta, mean = exact("exponentiated_gradient", 5, step_size=0.05), torch.zeros(2).double(), torch.zeros(2)
    for count in range(1, 1501):
        theta.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(a @ theta + b), theta)
        theta = (theta.detach() - 0.05 * gradient).clamp(-1, 1)
        mean = mean + (theta - mean) / count
    assert (a @ mean + b).max().item() == pytest.approx(program.fun, abs=0.02)


def test_with_a_reference_the_largest_excess_is_minimised():
    reference = PROBLEM.numpy_losses(np.zeros(DIM)) * [0.1, 0.7, 0.2, 0.4]
    start = np.zeros(DIM + 1)
    solved = minimize(
        lambda z: z[-1], start, method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
        constraints={"type": "ineq", "fun": lambda z: z[-1] - PROBLEM.numpy_losses(z[:-1]) + reference},
    )  # fmt: skip
    loss = exact("softmax", temperature=0.02, reference=reference.tolist())
    *_, theta = descend(loss, torch.zeros(DIM).double(), 0.002, 3000)
    assert (PROBLEM.numpy_losses(theta.numpy()) - reference).max() == pytest.approx(
        solved.x[-1], abs=0.02 * math.log(GROUPS)
    )


def test_with_trivial_losses_the_largest_share_of_what_can_be_learnt_is_minimised():
    alone = np.array(
        [np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(PROBLEM.inputs, PROBLEM.targets, strict=True)]
    )
    reference = np.array([PROBLEM.numpy_losses(theta)[group] for group, theta in enumerate(alone)])
    trivial = (PROBLEM.targets**2).mean(1)
    solved = minimize(
        lambda z: z[-1], np.zeros(DIM + 1), method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
        constraints={
            "type": "ineq",
            "fun": lambda z: z[-1] - (PROBLEM.numpy_losses(z[:-1]) - reference) / (trivial - reference),
        },
    )  # fmt: skip
    loss = exact("softmax", temperature=0.01, reference=reference.tolist(), trivial=trivial.tolist())
    *_, theta = descend(loss, torch.zeros(DIM).double(), 0.002, 3000)
    shares = (PROBLEM.numpy_losses(theta.numpy()) - reference) / (trivial - reference)
    assert shares.max() == pytest.approx(solved.x[-1], abs=0.01 * math.log(GROUPS))


def error_of_small_batches(momentum, batches=2000, size=3, accumulate=4):
    """Of descent in which a call sees a few examples of each group and a step is made every four calls."""
    generator = torch.Generator().manual_seed(0)
    loss = TaskRobustLoss(GROUPS, temperature=0.03, relative=False, momentum=momentum)
    theta, path = torch.zeros(DIM, dtype=torch.float64, requires_grad=True), []
    for batch in range(1, batches + 1):
        rows = torch.randint(EXAMPLES, (GROUPS, size), generator=generator)
        x, y = (values[torch.arange(GROUPS)[:, None], rows] for values in (PROBLEM.x, PROBLEM.y))
        (loss((torch.einsum("gnd,d->gn", x, theta) - y).square().mean(1)) / accumulate).backward()
        if batch % accumulate == 0:
            with torch.no_grad():
                theta -= 0.02 * theta.grad
            theta.grad = None
            path.append(theta.detach().clone())
    return PROBLEM.losses(torch.stack(path[len(path) // 2 :]).mean(0)).max().item() - PROBLEM.optimum()[0]


def test_momentum_finds_the_worst_mean_loss_from_small_accumulated_batches_and_a_batch_alone_another_one():
    assert error_of_small_batches(momentum=0.98) < 0.2
    assert error_of_small_batches(momentum=0.0) > 0.8
