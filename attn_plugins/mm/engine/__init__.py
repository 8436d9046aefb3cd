"""What a run needs: loops, checkpoints, safe loading, sharding, repairs of mmengine.

Imports mmengine, and of ours ``modules`` alone.
"""
