# eanet_r101_ade20k.py with weights, gradients and optimizer sharded over the GPUs
# (FSDP). Same recipe; checkpoints hold whole tensors.
# docs/reliability.md#many-processes-without-a-gpu
_base_ = './eanet_r101_ade20k.py'
custom_imports = dict(imports=['attn_plugins.mm.engine.sharding'])
runner_type = 'FlexibleRunner'
policy = 'torch.distributed.fsdp.wrap.size_based_auto_wrap_policy'
strategy = dict(
    type='ResumableFSDPStrategy',
    state_dict_cfg='full',
    model_wrapper=dict(auto_wrap_policy=dict(type=policy, min_num_params=1_000_000)),
)
