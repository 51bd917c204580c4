"""Watch the quality of an encoder's representation while it pretrains: SynBench for Lightning."""

from synbench_lightning.benchmark.best import Comparison as Comparison
from synbench_lightning.benchmark.best import select_best as select_best
from synbench_lightning.benchmark.proxies import labelled_proxies as labelled_proxies
from synbench_lightning.benchmark.result import BenchmarkResult as BenchmarkResult
from synbench_lightning.callbacks.benchmark import BenchmarkCallback as BenchmarkCallback
from synbench_lightning.callbacks.early_stopping import SynBenchEarlyStopping as SynBenchEarlyStopping
from synbench_lightning.callbacks.synbench import SynBenchCallback as SynBenchCallback
from synbench_lightning.linear_probe import RobustLinearProbe as RobustLinearProbe
from synbench_lightning.losses import TaskRobustLoss as TaskRobustLoss
from synbench_lightning.metrics import SynBenchScore as SynBenchScore
from synbench_lightning.probe.families import task_family as task_family
from synbench_lightning.probe.plan import ProbePlan as ProbePlan
from synbench_lightning.probe.probe import evaluate as evaluate
from synbench_lightning.probe.result import ProbeResult as ProbeResult
from synbench_lightning.probe.tasks import GaussianTask as GaussianTask
from synbench_lightning.probe.tasks import LabelledTask as LabelledTask

__version__ = "0.1.0"
