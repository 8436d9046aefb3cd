# HTC, LESA-WRN-50-2-DCN-FPN, COCO (norm_eval=True, frozen_stages=1, as released).
# LESA paper, Table 3, WR50 HTC LESA 20 (48.8 box, 43.0 mask AP printed). Recipe of
# htc_wrn50-dcn_coco_20e.py: scales 512 to 2048, 4 GPUs x 1 image, 20 epochs, SGD 0.005.
# LESA's local term is deformable, like the convolutions of stage 2 and the first of
# stage 3 (as released).
# To start as the paper does, convert the released LESA-WRN-50 classifier with
# attn_plugins convert: --cfg-options model.backbone.init_cfg.checkpoint=FILE
# model.backbone.init_cfg.prefix=backbone. The default, torchvision's weights, leaves
# the attention layers random; they need model.backbone.norm_eval=False and
# model.backbone.frozen_stages=-1.
_base_ = './htc_wrn50-dcn_coco_20e.py'
model = dict(
    backbone=dict(
        stage_with_attn=(False, False, True, True),
        rel_pos_input_size=1024,
    )
)
