"""The functions of ``mmcv._ext`` by their names and parameters, grouped by operator."""
