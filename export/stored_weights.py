"""Networks whose weights take less room on the disk than they are computed with."""

import keras
import numpy as np
import tensorflow as tf

PRECISIONS = ("float32", "float16")
MEGABYTE = 10**6


class StoredNetwork:
    """A Keras model, called in inference, with its weights stored in half precision or as they are.

    In half precision kernels and matrices are float16 variables that a call casts back, and it
    computes with them as it did before. Vectors (biases, BatchNorm) stay float32: they are about
    1 % of the bytes, and a variance can be too large or too small for float16.

    Args:
        model: the network.
        precision: "float32" or "float16".

    Attributes:
        variables: what is saved.

    Call arguments:
        images: as the model's.

    Raises:
        ValueError: a weight is beyond the 65,504 of float16.
    """

    def __init__(self, model: keras.Model, precision: str = "float32"):
        if precision not in PRECISIONS:
            raise ValueError(f"expected weights in one of {PRECISIONS}. Received: {precision!r}")
        self._model = model
        self._is_half = precision == "float16"
        self.variables = [variable.value for variable in model.variables]
        if self._is_half:
            self.variables = [_halved(variable) for variable in model.variables]

    @property
    def dimension(self) -> int:
        """Size of the last dimension of the output."""
        return self._model.output_shape[-1]

    @property
    def bytes(self) -> int:
        """Bytes of the weights as they are stored."""
        return sum(variable.dtype.size * variable.shape.num_elements() for variable in
                   self.variables)  # fmt: skip

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Runs the network."""
        if not self._is_half:
            return self._model(images, training=False)
        model = self._model
        cast = {
            id(variable): tf.cast(stored, variable.dtype)
            for variable, stored in zip(model.variables, self.variables, strict=True)
        }
        outputs, _ = model.stateless_call(
            [cast[id(variable)] for variable in model.trainable_variables],
            [cast[id(variable)] for variable in model.non_trainable_variables],
            images,
            training=False,
        )
        return outputs

    def update(self, digest) -> None:
        """Adds names, shapes and stored values of the weights to a digest of hashlib."""
        for variable, stored in zip(self._model.variables, self.variables, strict=True):
            digest.update(f"{variable.path} {variable.shape}".encode())
            digest.update(np.asarray(stored).tobytes())


def _halved(variable: keras.Variable) -> tf.Variable:
    """Returns a variable of the values in float16, or as they are where that is not for them."""
    values = keras.ops.convert_to_numpy(variable)
    if values.dtype != np.float32 or values.ndim < 2:
        return tf.Variable(values, trainable=False)
    largest = np.abs(values).max(initial=0)
    if not largest <= np.finfo(np.float16).max:
        raise ValueError(
            "float16: expected weights of at most 65,504. "
            f"Received: {largest:.4g} in {variable.path}"
        )
    return tf.Variable(values.astype(np.float16), trainable=False)
