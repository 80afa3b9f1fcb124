"""
Layers that backbones and heads share.

- ``deformable``: deformable convolutions, and a ResNet block with one.
- ``norms``: normalization layers by name.
"""
