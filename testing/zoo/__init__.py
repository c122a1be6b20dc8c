"""A zoo of tiny, randomly initialised transformers models: ``build(task, model_type) -> model, inputs``."""

from testing.zoo.make import make_inputs
from testing.zoo.models import TASKS, build, build_model, every_task, head_name, iter_architectures, tiny_config

__all__ = [
    "TASKS",
    "build",
    "build_model",
    "every_task",
    "head_name",
    "iter_architectures",
    "make_inputs",
    "tiny_config",
]
