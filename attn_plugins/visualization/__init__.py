"""Pictures of attention, predictions and training; what draws returns a Figure."""

from .attention import (
    Attention,
    AttentionMap,
    axial_weights,
    content_weights,
    describe,
    head_slot_maps,
    own_weights,
    point_attention,
    slot_maps,
    token_slot_maps,
)
from .curves import main_metrics, read_run, read_scalars, series, training_curves
from .pages import Page, png_bytes
from .panels import (
    Sample,
    caption,
    captioned,
    colourise,
    overlay,
    prediction_panels,
    rendered,
)
from .recording import AttentionRecorder, Recording, attention_layers
from .sheets import UNTRAINED, attention_sheet, gate_overview

__all__ = [
    'UNTRAINED',
    'Attention',
    'AttentionMap',
    'AttentionRecorder',
    'Page',
    'Recording',
    'Sample',
    'attention_layers',
    'attention_sheet',
    'axial_weights',
    'caption',
    'captioned',
    'colourise',
    'content_weights',
    'describe',
    'gate_overview',
    'head_slot_maps',
    'main_metrics',
    'overlay',
    'own_weights',
    'png_bytes',
    'point_attention',
    'prediction_panels',
    'read_run',
    'read_scalars',
    'rendered',
    'series',
    'slot_maps',
    'token_slot_maps',
    'training_curves',
]
