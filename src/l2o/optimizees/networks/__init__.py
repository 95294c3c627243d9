"""The networks that optimizees train, as plain modules. Their shapes are all that an optimizee uses of them."""

from l2o.optimizees.networks.convolutional import BatchNorm, ColoursFirst, conv_net, plain_conv_net
from l2o.optimizees.networks.mixer import Mixer
from l2o.optimizees.networks.mlp import ACTIVATIONS, image_autoencoder, image_mlp, mlp
from l2o.optimizees.networks.recurrent import CharGRU
from l2o.optimizees.networks.residual import res_net
from l2o.optimizees.networks.transformer import CharTransformer, VisionTransformer

__all__ = [
    "ACTIVATIONS",
    "BatchNorm",
    "CharGRU",
    "CharTransformer",
    "ColoursFirst",
    "Mixer",
    "VisionTransformer",
    "conv_net",
    "image_autoencoder",
    "image_mlp",
    "mlp",
    "plain_conv_net",
    "res_net",
]
