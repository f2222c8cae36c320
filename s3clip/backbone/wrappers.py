"""What people put around a dual encoder, taken off: the model inside does the work."""

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: Any, processor: Any) -> tuple[Any, Any]:
    """Return the dual encoder inside of a model, and its processor where the wrapper alone knows it.

    - `torch.compile(model)`: what it was made of. (It compiles `forward`, which a head does not call: compile
      the head, or `model.compile()` its towers.)
    - DataParallel and DistributedDataParallel: the module inside.
    - a PEFT model: the base with the adapter's layers in it, which work as before.
    - SentenceTransformer: the transformers model of its first part.

    Raises:
        TypeError: sharded weights, or an adapter that works on `forward` alone.
        ValueError: a SentenceTransformer that changes embeddings afterwards.
    """
    while True:
        inner, found = _inside(model)
        if inner is None:
            return model, processor
        model, processor = inner, found if processor is None else processor


def _inside(model: Any) -> tuple[Any, Any]:
    """Return what is inside one wrapper, and a processor; None where there is no wrapper."""
    kinds = {kind.__name__ for kind in type(model).__mro__ if not kind.__module__.startswith("s3clip.")}
    if "OptimizedModule" in kinds:
        return model._orig_mod, None
    if isinstance(model, DataParallel | DistributedDataParallel):
        return model.module, None
    if kinds & {"FSDPModule", "FullyShardedDataParallel"}:
        raise TypeError(
            f"model: the weights of this {type(model).__name__} are sharded, and its forward alone brings "
            "them together; gather them first (get_model_state_dict with full_state_dict=True), or build the "
            "head on the model before it is sharded"
        )
    if "PeftModel" in kinds:
        if model.active_peft_config.is_prompt_learning:
            kind = model.active_peft_config.peft_type.value
            raise TypeError(
                f"model: an adapter of the type {kind} changes the forward of the whole model, which "
                "encoding images or texts alone does not call"
            )
        return model.get_base_model(), None
    if "SentenceTransformer" in kinds:
        return _of_sentence_transformer(model)
    return None, None


def _of_sentence_transformer(model: Any) -> tuple[nn.Module, Any]:
    first, *others = model.children()
    after = [type(other).__name__ for other in others if type(other).__name__ != "Normalize"]
    if after:
        raise ValueError(
            f"model: a SentenceTransformer with {', '.join(after)} after its {type(first).__name__}: its "
            "space is not that of the dual encoder inside"
        )
    for name in ("model", "auto_model"):
        if isinstance(inner := getattr(first, name, None), nn.Module):
            return inner, getattr(first, "processor", None)
    raise TypeError(
        f"model: there is no transformers model in this SentenceTransformer's {type(first).__name__}"
    )
