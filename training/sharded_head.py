"""The cosine softmax of very many classes, split over the replicas.

Each replica holds the centres of C/R classes, sees the embeddings of the whole global batch, and
sums its classes' exponentials; one all-reduce of `(B,)` numbers gives every image's softmax. So
neither the centres, nor their gradient and optimizer slots, nor the `(B, C)` cosines exist whole
anywhere. The finished model of a stage is the embedding part; the centres lie beside it.
"""

import dataclasses
import math
import os
from collections.abc import Callable

import keras
import tensorflow as tf

from models import heads
from training import replicas
from training.sharded_tensor import ShardedTensor, make_shards, read_matrix, read_shape

FILE_NAME = "centers"  # beside the stage's model, a checkpoint of one matrix


class ShardedHead:
    """The class centres over the replicas, and the optimizer that trains them.

    Args:
        strategy: where.
        num_classes: number of classes C.
        embedding_dim: size D of the embedding.
        optimizer: of its own, with the settings of the model's; made inside `strategy.scope()`.
        seed: of the initial centres, which do not depend on the number of replicas.

    Raises:
        ValueError: LAMB, whose rate depends on the norm of the whole matrix; workers with a
            process each, of which none could save all centres.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        num_classes: int,
        embedding_dim: int,
        optimizer: keras.optimizers.Optimizer,
        seed: int = 0,
    ):
        if isinstance(optimizer, keras.optimizers.Lamb):
            raise ValueError(
                "a sharded head: expected an optimizer that works entry by entry (sgd, adam, "
                "adamw). Received: lamb"
            )
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise ValueError(
                "a sharded head: expected all replicas in one process, which saves the centres, as "
                "TPUs and one machine have it. Received: MultiWorkerMirroredStrategy"
            )
        self.strategy = strategy
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.centers = make_shards(strategy, num_classes, embedding_dim)  # (C/R, D)
        # Glorot's uniform, as the head in one piece has it.
        limit = math.sqrt(6.0 / (num_classes + embedding_dim))
        self.sharded(self.centers).initialize(limit, seed)

    def sharded(self, variable: tf.Variable) -> ShardedTensor:
        """Returns how the centres, or a variable beside them, are saved."""
        return ShardedTensor(variable, self.num_classes)

    def checkpoint_variables(self) -> list:
        """Returns the centres and the state of their optimizer."""
        variables = [variable.value for variable in self.optimizer.variables]
        return [
            self.sharded(v) if v.shape == self.centers.shape else v
            for v in [self.centers, *variables]
        ]

    def save(self, directory: str) -> None:
        """Writes the centres into a stage's folder."""
        checkpoint = tf.train.Checkpoint(centers=self.sharded(self.centers))
        checkpoint.write(os.path.join(directory, FILE_NAME))

    def load(self, directory: str) -> None:
        """Takes the centres of another stage with the same classes.

        Raises:
            ValueError: that stage has none, or another number of classes.
        """
        path = os.path.join(directory, FILE_NAME)
        _check(path, (self.num_classes, self.centers.shape[1]))
        checkpoint = tf.train.Checkpoint(centers=self.sharded(self.centers))
        checkpoint.read(path).assert_consumed()


def load_centers(directory: str, shape: tuple[int, int]):
    """Returns the `(C, D)` centres that a sharded head has left in a stage's folder, whole.

    Args:
        directory: of the stage.
        shape: expected (C, D).
    """
    path = os.path.join(directory, FILE_NAME)
    _check(path, shape)
    return read_matrix(path)


def _check(path: str, shape: tuple[int, int]) -> None:
    if not tf.io.gfile.exists(path + ".index"):
        raise ValueError(
            f"expected the class centres of the stage before in {path}. Received: none; skip "
            "the layer 'head' to begin with new ones"
        )
    if read_shape(path) != shape:
        raise ValueError(
            f"expected {shape[0]} class centres of size {shape[1]} in {path}. "
            f"Received: {read_shape(path)}; skip the layer 'head' to begin with new ones"
        )


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is made of cosines.

    Attributes:
        scale: "adacos" (dynamic, of the global batch), "adacos_fixed", or a number.
        margin: "none", "arcface" or "cosface".
        margin_size: size of the margin.
        sample_rate: share of its classes that a replica compares with in a training step: all
            classes of the batch, and others at random (An et al., "Killing Two Birds with One
            Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC",
            arXiv:2203.15565). As there, nothing makes up for those left out, so the estimate is
            biased: with q the probability that an image's softmax over all classes gives to those
            left out, each of its probabilities p becomes p / (1 − q). The loss is lower by
            −ln(1 − q), about ln(1/sample_rate) where the others decide; the push away from each
            sampled class is 1 / (1 − q) times too strong, about 1/sample_rate there; the own
            class's pull 1 − p is too weak by p·q / (1 − q), little at first and about q once p
            is large. The optimizer's momentum still moves centres that were not drawn.
            Evaluation always compares with all. Measured in docs/replicas.md.
        seed: of the sampling.
    """

    scale: str | float = "adacos"
    margin: str = "none"
    margin_size: float = 0.0
    sample_rate: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.sample_rate <= 1:
            raise ValueError(
                f"sample_rate: expected above 0, at most 1. Received: {self.sample_rate}"
            )
        if self.margin not in ("none", "arcface", "cosface"):
            raise ValueError(
                f"margin: expected 'none', 'arcface' or 'cosface'. Received: {self.margin!r}"
            )
        if isinstance(self.scale, str) and self.scale not in ("adacos", "adacos_fixed"):
            raise ValueError(
                f"scale: expected 'adacos', 'adacos_fixed' or a number. Received: {self.scale!r}"
            )


class ShardedObjective:
    """The objective of a model without a head, over a `ShardedHead`.

    Everything is of the global batch, the dynamic scale as well. Correct is an image whose own
    class has the largest cosine, without margin, of the classes compared with.

    Args:
        head: the centres.
        rule: scale, margin and sampling.
        embed: `(model, images, training)` → `(b, D)`, see `models.objectives.Embedder`.

    Call arguments, Returns:
        As `models.objectives.CosineSoftmaxObjective`; `model` is `(b, S, S, 3)` → `(b, D)`.
    """

    def __init__(
        self,
        head: ShardedHead,
        rule: Rule,
        embed: Callable,
    ):
        self.head = head
        self.rule = rule
        self.embed = embed
        self.freeze_batchnorm = getattr(embed, "freeze_batchnorm", False)
        self.generator = None
        if rule.sample_rate < 1:
            with head.strategy.scope():
                self.generator = replicas.fold_generator(keras.random.SeedGenerator(rule.seed))

    @property
    def variables(self) -> list[tf.Variable]:
        """The state of the sampling."""
        return [] if self.generator is None else [self.generator.state.value]

    def __call__(self, model: keras.Model, images, labels, training: bool) -> dict:
        """See the class."""
        embeddings = self.embed(model, images, training)  # (b, D)
        units = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=1, epsilon=1e-24)
        units, labels = replicas.gather(units), replicas.gather(tf.cast(labels, tf.int32))  # (B, …)
        centers, classes = self._centers(labels, training)  # (n, D), (n,)
        centers = tf.math.l2_normalize(centers, axis=1, epsilon=1e-24)
        cosines = tf.matmul(units, centers, transpose_b=True)  # (B, n)
        own = labels[:, None] == classes[None, :]  # (B, n)
        other = ~own & (classes < self.head.num_classes)[None, :]
        # Only the replica that holds an image's class adds anything.
        own_cosines = replicas.add_up(tf.reduce_sum(tf.where(own, cosines, 0.0), axis=1))  # (B,)
        scale = tf.stop_gradient(self._scale(cosines, other, own_cosines))
        best = tf.reduce_max(tf.where(other, tf.stop_gradient(cosines), -2.0), axis=1)
        beaten = replicas.add_up(tf.cast(best > tf.stop_gradient(own_cosines), tf.float32))
        outputs = {
            "loss": self._losses(cosines, other, own_cosines, scale),
            "correct": tf.cast(beaten == 0, tf.float32),
            "target_cosine": own_cosines,
        }
        return {**{name: replicas.own_part(v) for name, v in outputs.items()}, "scale": scale}

    def _losses(self, cosines, other, own_cosines, scale):
        """Returns `(B,)` cross entropies; the largest exponent is 0, as a cosine is at most 1."""
        sums = tf.reduce_sum(tf.where(other, tf.exp(scale * (cosines - 1.0)), 0.0), axis=1)
        target, _ = heads.own_class_margin(own_cosines, self.rule.margin, self.rule.margin_size)
        own_logits = scale * (target - 1.0)
        return tf.math.log(replicas.add_up(sums) + tf.exp(own_logits)) - own_logits

    def _scale(self, cosines, other, own_cosines):
        num_classes = self.head.num_classes
        if self.rule.scale == "adacos_fixed":
            return tf.constant(heads.fixed_adacos_scale(num_classes))
        if self.rule.scale != "adacos":
            return tf.constant(float(self.rule.scale))
        fixed = heads.fixed_adacos_scale(num_classes)
        cosines = tf.stop_gradient(cosines)
        sums = tf.reduce_sum(tf.where(other, tf.exp(fixed * cosines), 0.0), axis=1)  # (B,)
        return heads.adacos_from_sums(replicas.add_up(sums), tf.stop_gradient(own_cosines))

    def _centers(self, labels, training: bool):
        """Returns the centres to compare with and their classes; C and more fill up a shard."""
        shard = self.head.centers
        size = shard.shape[0]
        first = replicas.replica_id() * size
        wanted = max(math.ceil(self.rule.sample_rate * size), min(labels.shape[0], size))
        if not training or wanted >= size:
            return tf.convert_to_tensor(shard), first + tf.range(size)
        present = tf.reduce_any(labels[:, None] == first + tf.range(size)[None, :], axis=0)  # (n,)
        draws = tf.random.stateless_uniform((size,), self.generator.next())
        order = tf.where(first + tf.range(size) < self.head.num_classes, draws, -1.0)
        _, rows = tf.math.top_k(tf.where(present, 2.0, order), wanted)
        return tf.gather(shard, rows), first + rows
