"""Lets mm configs say ``norm_cfg`` where a module takes ``norm_layer``."""

from collections.abc import Callable

from torch import nn

from .derived import derived


def norm_layer_of(norm_cfg: dict) -> Callable[[int], nn.Module]:
    """Returns what makes the norm of a config from a channel count."""
    # Here, not above: without mmcv the layers work with their own norm.
    from mmcv.cnn import build_norm_layer

    return lambda num_features: build_norm_layer(norm_cfg, num_features)[1]


def takes_norm_cfg(cls: type[nn.Module]) -> type[nn.Module]:
    """Makes a subclass of the same name whose ``norm_cfg`` replaces ``norm_layer``.

    Without ``norm_cfg`` the module keeps its own default norm.
    """
    return derived(_TakesNormCfg, cls)


class _TakesNormCfg:
    def __init__(self, *args, norm_cfg: dict | None = None, **kwargs) -> None:
        if norm_cfg is not None:
            kwargs['norm_layer'] = norm_layer_of(norm_cfg)
        super().__init__(*args, **kwargs)
