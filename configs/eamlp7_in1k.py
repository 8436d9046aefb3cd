# EAMLP-7, ImageNet: EA paper, Table II (68.9 top-1, 6.1 M parameters printed). Stock
# mmpretrain T2T-ViT recipe: 8 GPUs x 64 images of 224 x 224, 300 + 10 epochs, AdamW
# cosine; learning rate and weight decay of the released run at 384 pixels.
# docs/eamlp.md#configs
_base_ = 'mmpretrain::t2t_vit/t2t-vit-t-14_8xb64_in1k.py'
custom_imports = dict(imports=['attn_plugins'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='EAMLP',
        depth=7,
        drop_path_rate=0.1,
        init_cfg={{_base_.model.backbone.init_cfg}},
    ),
    head=dict(in_channels=256),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.03))
