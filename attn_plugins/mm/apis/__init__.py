"""What commands and programs share: predictor, maps of a model, export, work folders.

Imports mmengine and the frameworks, and of ours every room but ``cli``.
"""
