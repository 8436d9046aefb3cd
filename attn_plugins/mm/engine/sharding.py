"""FSDP by mmengine's strategy, repaired where it fails with today's torch.

Source: FSDPStrategy of mmengine 0.10.7. Its call to load an optimizer's state is of
torch 2.0; in later releases the arguments stand in another order. It can go when
mmengine calls it by keywords, and trains on CPUs without asking for an accelerator.
"""

from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.registry import STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel


@STRATEGIES.register_module()
class ResumableFSDPStrategy(FSDPStrategy):
    """``FSDPStrategy`` that can resume under torch 2.1 and later, and train on CPUs.

    In a config, with all arguments of the stock strategy::

        custom_imports = dict(imports=['attn_plugins.mm.engine.sharding'])
        runner_type = 'FlexibleRunner'
        strategy = dict(type='ResumableFSDPStrategy', state_dict_cfg='full')
    """

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if get_device() == 'cpu':
            self.model_wrapper = {
                'type': 'MMFullyShardedDataParallel',
                **(self.model_wrapper or {}),
                'device_id': 'cpu',
            }
            # The copy would be the parameter itself, which torch frees: it crashes.
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False
        return super()._wrap_model(model)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        state_dict = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, self.optim_wrapper.optimizer, state_dict
        )
        self.optim_wrapper.load_state_dict(state_dict)
