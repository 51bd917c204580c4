"""Monitor the quality of an encoder's representation during pretraining: SynBench for Lightning.

The packages; each imports only those below it:

======================= =============================================================================================
``cli``                 the commands ``synbench evaluate``, ``history``, ``report`` and ``best``
``callbacks``           when probes are made, what is logged under which key, figures for loggers, warnings
``plots``               figures of probes, of runs and of benchmarks, and their style
``benchmark``           labeled tasks, the choice of the items to evaluate, and the best of several models
``probe``               proxy tasks and their families, samples, views, labels, and one probe of an encoder
``runtime``             interface to Lightning and torch: strategies, devices, isolation of the module, feature layouts
``functional``          mathematics on tensors: ``gaussian`` (the score), ``representation`` (information, readouts,
                        spectra), ``benchmark`` (dynamics, selection, estimates), ``minimax``, ``task_splits``
``losses``, ``metrics`` training for the worst task (minimax); the score as a torchmetrics metric
``linear_probe``        the linear discriminant behind the score, as a classifier
======================= =============================================================================================
"""

from synbench_lightning.benchmark.lm_eval import harness_task as harness_task
from synbench_lightning.benchmark.model_selection import Comparison as Comparison
from synbench_lightning.benchmark.model_selection import select_best as select_best
from synbench_lightning.benchmark.prompts import Prompts as Prompts
from synbench_lightning.benchmark.proxies import labelled_proxies as labelled_proxies
from synbench_lightning.benchmark.result import BenchmarkResult as BenchmarkResult
from synbench_lightning.callbacks.benchmark import BenchmarkCallback as BenchmarkCallback
from synbench_lightning.callbacks.early_stopping import SynBenchEarlyStopping as SynBenchEarlyStopping
from synbench_lightning.callbacks.synbench import SynBenchCallback as SynBenchCallback
from synbench_lightning.linear_probe import RobustLinearProbe as RobustLinearProbe
from synbench_lightning.losses import TaskRobustLoss as TaskRobustLoss
from synbench_lightning.metrics import SynBenchScore as SynBenchScore
from synbench_lightning.probe.evaluate import evaluate as evaluate
from synbench_lightning.probe.families import task_family as task_family
from synbench_lightning.probe.plan import ProbePlan as ProbePlan
from synbench_lightning.probe.ranking import Ranking as Ranking
from synbench_lightning.probe.ranking import rank as rank
from synbench_lightning.probe.result import ProbeResult as ProbeResult
from synbench_lightning.probe.tasks import GaussianTask as GaussianTask
from synbench_lightning.probe.tasks import LabelledTask as LabelledTask
from synbench_lightning.probe.view_files import save_views as save_views
from synbench_lightning.runtime.layer_encoder import LayerEncoder as LayerEncoder

__version__ = "0.1.0"
