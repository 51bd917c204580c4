"""Watch the quality of an encoder's representation while it pretrains: SynBench for Lightning.

Where things live; each floor knows those below it:

======================= =============================================================================================
``cli``                 the commands ``synbench evaluate``, ``history``, ``report`` and ``best``
``callbacks``           when a probe is made, what is logged under which key, figures for loggers, advice
``plots``               figures of probes, of runs and of benchmarks, and their style
``benchmark``           labelled tasks, which of their points are evaluated, and the best of several models
``probe``               proxy tasks and their families, samples, views and labels, and one probe of an encoder
``runtime``             what Lightning and torch do: strategies, devices, isolation of the module, layouts of features
``functional``          the mathematics of tensors: ``gaussian`` (the score), ``representation`` (information, readouts,
                        spectra), ``benchmark`` (dynamics, selection, estimates), ``minimax``, ``splits``
``losses``, ``metrics`` training for the worst task; the score as a torchmetrics metric
``linear_probe``        the discriminant behind the score as a classifier
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
