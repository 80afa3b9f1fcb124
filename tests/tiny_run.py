"""A training run that takes milliseconds and has all the hooks of a real run."""

import torch
from fvcore.common.param_scheduler import ParamScheduler
from tiny import random_input
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import Trainer
from fcos_d2.engine.hooks import RunParts, build_hooks
from fcos_d2.engine.resuming import load_or_resume
from fcos_d2.engine.run_settings import RunSettings
from fcos_d2.engine.step_trainer import StepTrainer
from fcos_d2.engine.writers import build_writers


class TwoLosses(nn.Module):
    """
    A linear layer with two losses and the interface of detectron2's models.

    Attributes:
        at (dict[int, Callable]): In iteration i, ``at[i]`` is called with the model.
    """

    def __init__(self, at=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)
        self.at = at or {}

    def forward(self, batch):
        self.at.get(batch[0]["image_id"] // 2, lambda _: None)(self)
        x = torch.stack([x["image"] for x in batch])
        out = self.layer(x)
        return {"loss_a": out[:, 0].square().mean(), "loss_b": (out[:, 1] - 1).square().mean()}


class Batches(IterableDataset):
    """An endless dataset, whose iteration i has the images 2i and 2i + 1."""

    def __init__(self, start_iter=0):
        self.start_iter = start_iter

    def __iter__(self):
        index = 2 * self.start_iter
        while True:
            yield [{"image_id": i, "image": draw_image(i)} for i in (index, index + 1)]
            index += 2


class Constant(ParamScheduler):
    def __call__(self, where):
        return 1.0


class SameImages(Trainer):
    """A trainer that has the same two images in all iterations, also after an interruption."""

    @classmethod
    def build_train_loader(cls, cfg):
        class Loader:
            def __iter__(self):
                while True:
                    yield [random_input(3), random_input(2, seed=1)]

        return Loader()


def draw_image(index):
    return torch.randn(4, generator=torch.Generator().manual_seed(index))


def run(
    folder,
    max_iter,
    evaluate=None,
    *,
    at=None,
    resume=False,
    values=(),
    num_workers=0,
    solver=None,
    **settings,
):
    """Train; the k-th evaluation returns ``values[k]`` as "bbox/AP"."""
    settings = RunSettings(str(folder), max_iter, **settings)
    model = TwoLosses(at)
    solver = {"lr": 0.01, "momentum": 0.9, **(solver or {})}
    optimizer = torch.optim.SGD(model.parameters(), **solver)
    batches = Batches()
    loader = DataLoader(batches, batch_size=None, num_workers=num_workers)
    trainer = StepTrainer(model, loader if num_workers else batches, optimizer)
    checkpointer = FCOSCheckpointer(model, str(folder), trainer=trainer)
    trainer.evaluated = []

    def evaluate_next(model, output_dir):
        trainer.evaluated.append(trainer.iter)
        index = trainer.iter // settings.eval_period if settings.eval_period else 0
        return {"bbox": {"AP": values[min(index, len(values) - 1)]}}

    parts = RunParts(
        trainer=trainer,
        checkpointer=checkpointer,
        scheduler=Constant(),
        build_writers=lambda: build_writers(str(folder), max_iter),
        evaluate=evaluate or (evaluate_next if values else None),
    )
    trainer.register_hooks(build_hooks(settings, parts))
    resumes = load_or_resume(
        checkpointer, optimizer, "", resume=resume, resume_lr=settings.resume_lr
    )
    batches.start_iter = trainer.iter + 1 if resumes else 0
    trainer.train(batches.start_iter, max_iter)
    return trainer


def checkpoints_in(folder):
    return sorted(file.name for file in folder.glob("*.pth"))
