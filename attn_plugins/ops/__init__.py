"""mmcv's compiled operators as functions on tensors, in torch alone.

``extension`` gives them the names and conventions of the binary module ``mmcv._ext``,
``link`` puts them in its place. Imports torch, and torchvision where it loads.
"""
