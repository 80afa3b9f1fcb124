"""What happens during a training besides its steps: the settings, from either kind of config."""

from collections.abc import Callable
from dataclasses import dataclass, field

from detectron2.config import CfgNode
from omegaconf import DictConfig

from ..arguments import FLAG, NAME, TEXT, Arguments, integer, number
from ..errors import InputError

__all__ = ["RUN_ARGUMENTS", "RunSettings"]

# The keys of FCOS_TRAIN, and below all arguments.
RUN_ARGUMENTS = Arguments(
    "FCOS_TRAIN",
    ema_decay=number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    validation_loss=FLAG,
    best_metric=TEXT,
    early_stopping_patience=integer(at_least=0),
    max_to_keep=integer(at_least=0),
    checkpoint_at_signal=FLAG,
)
_ALL_ARGUMENTS = Arguments(
    "",
    output_dir=NAME,
    max_iter=integer(at_least=1),
    eval_period=integer(at_least=0),
    checkpoint_period=integer(at_least=1),
    log_period=integer(at_least=1),
    **RUN_ARGUMENTS.rules,  # type: ignore[arg-type]  # has no "elsewhere"
)


@dataclass(frozen=True)
class RunSettings:
    """
    What ``hooks.build_hooks`` makes the hooks of a training from.

    Args:
        output_dir (str): where all files go.
        max_iter (int): iterations in all.
        eval_period (int): iterations; 0: only the final weights are evaluated.
        checkpoint_period (int): iterations.
        log_period (int): iterations, after which losses are read and logged.
        ema_decay (float): of an average of the weights; 0: none.
        validation_loss (bool): compute the losses on the test data at every evaluation.
        best_metric (str): whose best value keeps ``model_best.pth``; "": none.
        early_stopping_patience (int): evaluations without a new best after which training ends; 0:
            never.
        max_to_keep (int): periodic checkpoints; 0: all.
        checkpoint_at_signal (bool): SIGINT and SIGTERM save a checkpoint.
        key: an argument's name in error messages, such as that of a config's key.

    Raises:
        InputError: values that break their rules or do not go together; one line for each.
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
    key: Callable[[str], str] = field(default=str, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ALL_ARGUMENTS.check(vars(self))
        conflicts = self._conflicts()
        if conflicts:
            raise InputError.of(conflicts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "RunSettings":
        """Read a YAML config."""
        return cls(
            output_dir=cfg.OUTPUT_DIR,
            max_iter=cfg.SOLVER.MAX_ITER,
            eval_period=max(0, cfg.TEST.EVAL_PERIOD),  # which detectron2 takes for never
            checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
            key=lambda x: "TEST.EVAL_PERIOD" if x == "eval_period" else RUN_ARGUMENTS.keys[x],
            **RUN_ARGUMENTS.read(cfg),
        )

    @classmethod
    def from_lazy(cls, cfg: DictConfig) -> "RunSettings":
        """Read the node ``train`` of a LazyConfig, which may lack our keys."""
        train = cfg.train
        own = {name: train[name] for name in RUN_ARGUMENTS.rules if name in train}
        own["max_to_keep"] = train.checkpointer.get("max_to_keep") or 0
        return cls(
            output_dir=train.output_dir,
            max_iter=train.max_iter,
            eval_period=train.eval_period,
            checkpoint_period=train.checkpointer.period,
            log_period=train.log_period,
            key=lambda x: f"train.{x}",
            **own,
        )

    def _conflicts(self) -> list[InputError]:
        metric, patience = self.best_metric, self.early_stopping_patience
        metric_key, patience_key = self.key("best_metric"), self.key("early_stopping_patience")
        conflicts = []
        if metric.startswith("ema/") and self.ema_decay == 0:
            text = (
                f"{metric_key} = {metric!r} is a metric of averaged weights, but there are none: "
                f"{self.key('ema_decay')} is 0."
            )
            conflicts.append(InputError(text, key=metric_key, value=metric))
        missing = {
            f"{metric_key} is ''": not metric,
            f"{self.key('eval_period')} is 0": self.eval_period == 0,
        }
        conflicts += [
            InputError(
                f"{patience_key} = {patience} counts evaluations without a new best, but {reason}.",
                key=patience_key,
                value=patience,
            )
            for reason, holds in missing.items()
            if patience > 0 and holds
        ]
        return conflicts
