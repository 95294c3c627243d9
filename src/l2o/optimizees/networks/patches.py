"""Images cut into squares, which vision transformers and mixers take as a sequence.

Shapes: N images of a minibatch, C colours, S squares, each of p×p pixels.
"""

from torch import Tensor, nn


class Patches(nn.Module):
    """Cuts images (N, side, side) or (N, side, side, C) into squares (N, S, p·p·C), row by row.

    Raises ValueError for a side that is no multiple of `patch`, and for images of another shape.
    """

    def __init__(self, side: int, patch: int, in_channels: int):
        super().__init__()
        if patch < 1 or side < 1 or side % patch or in_channels < 1:
            raise ValueError(f"squares of {patch}×{patch} pixels cut no image of {side}×{side}×{in_channels}")
        self.side, self.patch, self.in_channels = side, patch, in_channels
        self.count, self.size = (side // patch) ** 2, patch**2 * in_channels

    def forward(self, x: Tensor) -> Tensor:
        images = x[..., None] if x.ndim == 3 else x
        if images.shape[-3:] != (self.side, self.side, self.in_channels):
            wanted = f"({self.side}, {self.side}, {self.in_channels})"
            raise ValueError(f"the network takes images of shape {wanted}, got {tuple(images.shape[-3:])}: set side")
        rows = self.side // self.patch
        squares = images.unflatten(-3, (rows, self.patch)).unflatten(-2, (rows, self.patch))  # (N, r, p, r, p, C)
        return squares.transpose(-3, -4).flatten(-3).flatten(-3, -2)
