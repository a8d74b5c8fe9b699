"""What makes a pass of the transformer cheaper while clips are drawn: a step cache, and another attention kernel.

A step cache of diffusers leaves out blocks whose outputs change little from one step to the next. FirstBlockCache judges by
the mean change of the whole batch, so a clip may differ with the others of its batch. Both are off by default, and both
change clips: benchmarks/step_cache.py has their price in gold score.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, TaylorSeerCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from diffusers.models.cache_utils import CacheMixin

from components.config.params import SamplingParams, StepCacheParams
from components.errors import BadInput
from components.generator.family import Network


@contextmanager
def speedups(transformer: Network, sampling: SamplingParams, guided: bool = False) -> Iterator[None]:
    """The step cache and the attention kernel of `sampling` within the block; each block begins with an empty cache.

    guided: by Flow-NRG, which needs the gradient of each step and has no step cache.

    BadInput where the transformer has no step caches, or where the kernel is unknown or not installed.
    """
    with _attention(sampling.attention), _step_cache(transformer, None if guided else sampling.step_cache):
        yield


def cached(transformer: Network) -> bool:
    """Whether a step cache is on, so that passes need their names (`cache_context`)."""
    return bool(getattr(transformer, "is_cache_enabled", False))


@contextmanager
def _step_cache(transformer: Network, params: StepCacheParams | None) -> Iterator[None]:
    if params is None or params.method == "none":
        yield
        return
    if not isinstance(transformer, CacheMixin):
        raise BadInput("params.yaml", f"{type(transformer).__name__} has no step caches", key="sampling.step_cache.method")
    transformer.enable_cache(_config(params))
    try:
        yield
    finally:
        transformer.disable_cache()


def _config(params: StepCacheParams) -> Any:
    if params.method == "first_block":
        return FirstBlockCacheConfig(threshold=params.threshold)
    # Its full mode hooks layers named `attn`; Wan's are attn1 and attn2, so that nothing would be left out.
    return TaylorSeerCacheConfig(
        use_lite_mode=True,
        cache_interval=params.interval,
        disable_cache_before_step=params.warm_up,
        taylor_factors_dtype=torch.float32,
    )


@contextmanager
def _attention(name: str | None) -> Iterator[None]:
    """The library's own context of a kernel; `set_attention_backend` of a model would change all other models for good."""
    known = [backend.value for backend in AttentionBackendName]
    if name is not None and name not in known:
        raise BadInput("params.yaml", f"{name!r} is none of {', '.join(known)}", key="sampling.attention")
    with ExitStack() as stack:
        if name is not None:
            try:
                stack.enter_context(attention_backend(AttentionBackendName(name)))
            except (RuntimeError, ImportError, ValueError) as error:
                raise BadInput("params.yaml", f"{name}: {error}", key="sampling.attention") from None
        yield
