"""Pictures of attention, predictions and training; what draws returns a Figure."""

from .attention import Attention, AttentionMap, describe
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
    'caption',
    'captioned',
    'colourise',
    'describe',
    'gate_overview',
    'main_metrics',
    'overlay',
    'png_bytes',
    'prediction_panels',
    'read_run',
    'read_scalars',
    'rendered',
    'series',
    'training_curves',
]
