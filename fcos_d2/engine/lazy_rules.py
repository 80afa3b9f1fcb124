"""The rules of a LazyConfig: its keys, the arguments of its calls, and the values of both."""

import inspect
from collections.abc import Iterator, Mapping, Sequence

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..arguments import (
    FLAG,
    NOT_NEGATIVE,
    Arguments,
    Rule,
    find_faults,
    integer,
    raise_faults,
)
from ..data.dataset_mapper import MAPPER_ARGUMENTS, FCOSDatasetMapper
from ..errors import Collector, InputError
from ..modeling import (
    FCOS,
    BiFPN,
    FCOSAssigner,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    FCOSProposalGenerator,
    Levels,
    TimmBackbone,
)
from ..modeling.assignment.fcos import ASSIGNER_ARGUMENTS
from ..modeling.backbone.bifpn import BIFPN_ARGUMENTS
from ..modeling.backbone.timm_network import TIMM_ARGUMENTS
from ..modeling.backbone.timm_pixels import (
    PixelStatistics,
    pixel_statistics_of_network,
    warn_if_statistics_differ,
)
from ..modeling.config_checks import FCOS_ARGUMENTS
from ..modeling.head import HEAD_ARGUMENTS
from ..modeling.levels import LEVELS_ARGUMENTS
from ..modeling.losses.criterion import LOSSES_ARGUMENTS
from ..modeling.postprocessing import POSTPROCESSOR_ARGUMENTS
from ..modeling.proposal_generator import PROPOSAL_ARGUMENTS
from .config_rules import DATA_ARGUMENTS
from .run_settings import RUN_ARGUMENTS, RunSettings

__all__ = [
    "LAZY_RULES",
    "PART_ARGUMENTS",
    "check_calls",
    "check_complete",
    "check_pixel_statistics",
    "find_calls",
    "find_wrong_arguments",
    "find_wrong_values",
]

_FOR_BOTH = ("model", "train.device", "train.output_dir", "train.init_checkpoint")
_FOR_TRAINING = (
    "dataloader.train",
    "optimizer.params",
    "lr_multiplier",
    "train.max_iter",
    "train.amp.enabled",
    "train.ddp",
    "train.checkpointer",
    "train.eval_period",
    "train.log_period",
)
_FOR_EVALUATION = ("dataloader.test", "dataloader.evaluator")
# The names that a run reads from a config file, which may define others.
_USED = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
# The rules of this project's constructors, to report wrong arguments under their config keys.
PART_ARGUMENTS: Mapping[type, Arguments] = {
    FCOS: FCOS_ARGUMENTS,
    FCOSHead: HEAD_ARGUMENTS,
    Levels: LEVELS_ARGUMENTS,
    FCOSAssigner: ASSIGNER_ARGUMENTS,
    FCOSLosses: LOSSES_ARGUMENTS,
    FCOSPostProcessor: POSTPROCESSOR_ARGUMENTS,
    FCOSProposalGenerator: PROPOSAL_ARGUMENTS,
    BiFPN: BIFPN_ARGUMENTS,
    TimmBackbone: TIMM_ARGUMENTS,
    FCOSDatasetMapper: MAPPER_ARGUMENTS,
}
# The rules of the other values that training reads. Keys missing in a config are not checked.
LAZY_RULES: Mapping[str, Rule] = {
    **{f"train.{x}": rule for x, rule in RUN_ARGUMENTS.rules.items() if x != "max_to_keep"},
    "train.drop_classes": DATA_ARGUMENTS.rules["drop_classes"],
    "train.class_names": DATA_ARGUMENTS.rules["class_names"],
    "train.max_iter": integer(at_least=1),
    "train.eval_period": integer(at_least=0),
    "train.log_period": integer(at_least=1),
    "train.amp.enabled": FLAG,
    "train.checkpointer.period": integer(at_least=1),
    "train.checkpointer.max_to_keep": integer(at_least=1),
    "dataloader.train.total_batch_size": integer(at_least=1),
    "dataloader.train.num_workers": integer(at_least=0),
    "dataloader.test.num_workers": integer(at_least=0),
    "optimizer.lr": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
}


def check_complete(cfg: DictConfig, eval_only: bool) -> None:
    """Check that the config has all keys that a training or an evaluation needs."""
    keys = _FOR_EVALUATION if eval_only else _FOR_TRAINING
    missing = [key for key in (*_FOR_BOTH, *keys) if OmegaConf.select(cfg, key) is None]
    if missing:
        raise InputError(
            f"The LazyConfig lacks {', '.join(missing)}. See configs/lazy/fcos_R_50_FPN.py for a "
            "complete config.",
            key=missing[0],
        )


def find_calls(cfg: object, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield the key and the config of every LazyCall, outer calls before inner ones."""
    if isinstance(cfg, DictConfig):
        if "_target_" in cfg:
            yield path, cfg
        for name in map(str, cfg):
            yield from find_calls(cfg[name], f"{path}.{name}" if path else name)
    elif isinstance(cfg, ListConfig):
        for index, value in enumerate(cfg):
            yield from find_calls(value, f"{path}.{index}")


def _find_calls_under(cfg: DictConfig, names: Sequence[str]) -> Iterator[tuple[str, DictConfig]]:
    """Yield the LazyCalls under some top-level names; the config may lack some of them."""
    return (call for name in names if name in cfg for call in find_calls(cfg[name], name))


def check_calls(cfg: DictConfig) -> None:
    """Check that every LazyCall has all required arguments and no unknown ones."""
    faults = []
    for path, call in _find_calls_under(cfg, _USED):
        target = locate(call._target_) if isinstance(call._target_, str) else call._target_
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # some callables written in C have no signature
            continue
        arguments = {str(name): None for name in call if name != "_target_"}
        if path == "optimizer.params":
            arguments["model"] = None  # training sets it
        try:
            signature.bind(**arguments)
        except TypeError as error:
            known = ", ".join(signature.parameters)
            text = (
                f"{path} of the LazyConfig calls {getattr(target, '__name__', target)}: {error}. "
                f"Its arguments are: {known}."
            )
            faults.append(InputError(text, key=path))
    raise_faults([faults])


def find_wrong_arguments(cfg: DictConfig) -> list[InputError]:
    """Find arguments of this project's classes that break the rules of their constructors."""
    faults = []
    for path, call in _find_calls_under(cfg, ("model", "dataloader")):
        arguments = PART_ARGUMENTS.get(call._target_)
        if arguments is not None:
            rules = {f"{path}.{x}": rule for x, rule in arguments.rules.items() if x in call}
            faults += find_faults(rules, lambda key: OmegaConf.select(cfg, key))
    return faults


def find_wrong_values(cfg: DictConfig) -> list[InputError]:
    """Find values that break ``LAZY_RULES`` or contradict each other."""
    # Required keys that are missing have been reported before.
    rules = {x: rule for x, rule in LAZY_RULES.items() if OmegaConf.select(cfg, x) is not None}
    faults = find_faults(rules, lambda key: OmegaConf.select(cfg, key))
    collect = Collector()
    if not faults:
        collect(RunSettings.from_lazy, cfg)
    return faults + collect.faults


def check_pixel_statistics(cfg: DictConfig, name_key: str, name: str, split: str) -> None:
    """Warn if the pixel statistics in the config differ from those that timm's weights expect."""
    keys = (f"dataloader.{split}.mapper.image_format", "model.pixel_mean", "model.pixel_std")
    image_format, mean, std = (OmegaConf.select(cfg, key) for key in keys)
    if None not in (image_format, mean, std):
        expected = pixel_statistics_of_network(name)
        configured = PixelStatistics(image_format, tuple(mean), tuple(std))
        warn_if_statistics_differ(name, expected, configured, name_key, keys)
