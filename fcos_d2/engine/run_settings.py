"""The settings of the hooks of a training run, from a YAML config or a LazyConfig."""

from collections.abc import Callable
from dataclasses import dataclass, field

from detectron2.config import CfgNode
from omegaconf import DictConfig

from ..arguments import FLAG, NAME, TEXT, Arguments, integer, number
from ..errors import InputError
from .metric_names import is_validation_loss

__all__ = ["RUN_ARGUMENTS", "RunSettings"]

# The rules of the settings that are keys of FCOS_TRAIN; _ALL_ARGUMENTS has those of all settings.
RUN_ARGUMENTS = Arguments(
    "FCOS_TRAIN",
    ema_decay=number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    validation_loss=FLAG,
    best_metric=TEXT,
    early_stopping_patience=integer(at_least=0),
    max_to_keep=integer(at_least=0),
    checkpoint_at_signal=FLAG,
    resume_lr=FLAG,
)
_ALL_ARGUMENTS = Arguments(
    "",
    output_dir=NAME,
    max_iter=integer(at_least=1),
    eval_period=integer(at_least=0),
    checkpoint_period=integer(at_least=1),
    log_period=integer(at_least=1),
    **RUN_ARGUMENTS.rules,  # type: ignore[arg-type]  # No rule is named "elsewhere".
)


@dataclass(frozen=True)
class RunSettings:
    """
    The settings of a training run, from which ``hooks.build_hooks`` builds its hooks.

    Args:
        output_dir (str): Folder for all output files.
        max_iter (int): Total number of iterations.
        eval_period (int): Iterations between evaluations. With 0, only the final weights are
            evaluated.
        checkpoint_period (int): Iterations between checkpoints.
        log_period (int): Iterations between two reports of the losses.
        ema_decay (float): Decay of an exponential moving average of the weights; 0 means no
            average.
        validation_loss (bool): Compute the losses on the test data at every evaluation.
        best_metric (str): The metric whose best value decides which weights become
            ``model_best.pth``; "" means that no best weights are kept.
        early_stopping_patience (int): Number of evaluations without a new best after which
            training ends; 0 means never.
        max_to_keep (int): Number of periodic checkpoints to keep; 0 keeps all.
        checkpoint_at_signal (bool): Save a checkpoint when SIGINT or SIGTERM stops training.
        resume_lr (bool): A resumed run takes the settings of the optimizer from the config, not
            from the checkpoint.
        key (Callable): Returns the name that error messages use for a setting, such as
            "TEST.EVAL_PERIOD" for "eval_period". By default, this is the name of the field.

    Raises:
        InputError: If values do not follow their rules, or if settings contradict each other. The
            message has a line for each error.
    """

    output_dir: str
    max_iter: int
    eval_period: int = 0
    checkpoint_period: int = 5000
    log_period: int = 20
    ema_decay: float = 0.0
    validation_loss: bool = False
    best_metric: str = "bbox/AP"
    early_stopping_patience: int = 0
    max_to_keep: int = 0
    checkpoint_at_signal: bool = True
    resume_lr: bool = False
    key: Callable[[str], str] = field(default=str, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ALL_ARGUMENTS.check(vars(self))
        conflicts = self._find_conflicts()
        if conflicts:
            raise InputError.of(conflicts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "RunSettings":
        """
        Read the settings from a YAML config.

        Raises:
            InputError: See the class. Early stopping also needs a test set.
        """
        settings = cls(
            output_dir=cfg.OUTPUT_DIR,
            max_iter=cfg.SOLVER.MAX_ITER,
            eval_period=max(0, cfg.TEST.EVAL_PERIOD),  # for detectron2, a negative value means 0
            checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
            key=lambda x: "TEST.EVAL_PERIOD" if x == "eval_period" else RUN_ARGUMENTS.keys[x],
            **RUN_ARGUMENTS.read(cfg),
        )
        patience = settings.early_stopping_patience
        if patience > 0 and not cfg.DATASETS.TEST:
            key = settings.key("early_stopping_patience")
            text = f"{key} = {patience} compares evaluations, but DATASETS.TEST is empty."
            raise InputError(text, key=key, value=patience)
        return settings

    @classmethod
    def from_lazy(cls, cfg: DictConfig) -> "RunSettings":
        """Read the settings from ``train`` in a LazyConfig; those of RUN_ARGUMENTS are optional."""
        train = cfg.train
        optional = {name: train[name] for name in RUN_ARGUMENTS.rules if name in train}
        optional["max_to_keep"] = train.checkpointer.get("max_to_keep") or 0
        return cls(
            output_dir=train.output_dir,
            max_iter=train.max_iter,
            eval_period=train.eval_period,
            checkpoint_period=train.checkpointer.period,
            log_period=train.log_period,
            key=lambda x: f"train.{x}",
            **optional,
        )

    def _find_conflicts(self) -> list[InputError]:
        """Return an error for each contradiction between settings."""
        metric, patience = self.best_metric, self.early_stopping_patience
        metric_key, patience_key = self.key("best_metric"), self.key("early_stopping_patience")
        conflicts = []
        if metric.startswith("ema/") and self.ema_decay == 0:
            text = (
                f"{metric_key} = {metric!r} is a metric of averaged weights, but there are no "
                f"averaged weights because {self.key('ema_decay')} is 0."
            )
            conflicts.append(InputError(text, key=metric_key, value=metric))
        if is_validation_loss(metric) and not self.validation_loss:
            text = (
                f"{metric_key} = {metric!r} is a loss on the test data, which is not computed "
                f"because {self.key('validation_loss')} is False."
            )
            conflicts.append(InputError(text, key=metric_key, value=metric))
        reasons = []
        if patience > 0 and not metric:
            reasons.append(f"{metric_key} is ''")
        if patience > 0 and self.eval_period == 0:
            reasons.append(f"{self.key('eval_period')} is 0")
        for reason in reasons:
            text = (
                f"{patience_key} = {patience} requires regular evaluations and a best metric, but "
                f"{reason}."
            )
            conflicts.append(InputError(text, key=patience_key, value=patience))
        return conflicts
