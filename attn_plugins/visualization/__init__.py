"""Pictures of predictions and of training; each function returns a Figure."""

from .curves import read_scalars, series, training_curves
from .panels import Sample, colourise, prediction_panels

__all__ = [
    'Sample',
    'colourise',
    'prediction_panels',
    'read_scalars',
    'series',
    'training_curves',
]
