"""Lets mm configs say ``norm_cfg`` where a module takes ``norm_layer``."""

from torch import nn


def takes_norm_cfg(cls: type[nn.Module]) -> type[nn.Module]:
    """Makes a subclass of the same name whose ``norm_cfg`` replaces ``norm_layer``.

    Without ``norm_cfg`` the module keeps its own default norm.
    """

    class WithNormCfg(cls):
        def __init__(self, *args, norm_cfg: dict | None = None, **kwargs) -> None:
            if norm_cfg is not None:
                # Here, not above: without mmcv the layers work with their own norm.
                from mmcv.cnn import build_norm_layer

                def norm_layer(num_features: int) -> nn.Module:
                    return build_norm_layer(norm_cfg, num_features)[1]

                kwargs['norm_layer'] = norm_layer
            super().__init__(*args, **kwargs)

    WithNormCfg.__name__ = cls.__name__
    WithNormCfg.__qualname__ = cls.__qualname__
    WithNormCfg.__doc__ = cls.__doc__
    return WithNormCfg
