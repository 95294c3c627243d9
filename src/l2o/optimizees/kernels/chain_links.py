"""What a chain of linear layers is made of, as the compiled kernels know it."""

from enum import IntEnum
from typing import NamedTuple


class Activation(IntEnum):
    """Name what is applied to every output of a layer. The C++ source knows the numbers."""

    NONE = 0
    RELU = 1
    SIGMOID = 2
    TANH = 3
    GELU = 4
    SILU = 5
    LEAKY_RELU = 6
    ELU = 7


class Loss(IntEnum):
    """Name what a chain's outputs are turned into. The C++ source knows the numbers."""

    CROSS_ENTROPY = 0  # with labels, as the mean over the minibatch
    SIGMOID_SQUARES = 1  # the mean of (x − sigmoid(output))², where x is the network's own input


class Link(NamedTuple):
    """Hold a linear layer and the activation after it."""

    inputs: int
    outputs: int
    weight: int  # where in θ the weight (outputs, inputs) begins
    bias: int  # where the bias begins; −1 where there is none
    activation: Activation = Activation.NONE
    slope: float = 0.0  # of the activation below 0, where it has one
    scale: float = 1.0  # of the whole activation, where it has one


Chain = tuple[Link, ...]
