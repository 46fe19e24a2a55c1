"""The training step and the device loop, the same on TPU, GPU and CPU.

An explicit loop and not `fit`, which fails or misreports on several replicas (keras-team/keras
#19246): `tf.range` steps run on the devices between two looks from the host.
"""

import contextlib
from collections.abc import Callable

import keras
import tensorflow as tf

from training import accumulation, replicas, updates
from training.averaging import WeightAverage
from training.sharded_head import ShardedHead

SUMS = ("loss", "correct", "images", "scale", "calls", "target_cosine")


class NonFiniteError(FloatingPointError):
    """A loss or a gradient was not finite.

    Weights, their average, BatchNorm statistics and the optimizer are as before that step. What
    other layers remember, such as centres and earlier embeddings, is not, and is not to be saved.

    Attributes:
        step: steps done before it, which is also the number of the batch, counted from 0.
        position: the same within the inner loop.
        result: the means of the loop, that step included.
    """

    def __init__(self, step: int, position: int, result: dict[str, float]):
        super().__init__(
            f"the loss of step {step + 1} is {result['loss']:.4g} and its gradient's norm "
            f"{result['gradient_norm']:.4g}; the last checkpoint is from before that step. Lower "
            "the learning rate or clip the gradient (train.py --set stage.learning_rate=... or "
            "stage.clip_norm=...) and go on from there with --changed"
        )
        self.step = step
        self.position = position
        self.result = result


class Trainer:
    """Trains and evaluates one model under one strategy.

    The loss of a step is Σ weight·CE over the global batch, divided by the global batch size, so
    that the sum of the replicas' gradients is the gradient of one big batch.

    Args:
        strategy: where.
        model: what `objective` calls; made inside `strategy.scope()`. The seeds of its dropout
            layers are changed so that replicas differ, see `replicas.fold_replica_id`.
        objective: `(model, images, labels, training)` → {"loss": `(B,)`, "correct": `(B,)`} and,
            both or neither, "scale": `()` and "target_cosine": `(B,)`, float32, of one replica's
            images; see `models.objectives`.
        optimizer: made inside `strategy.scope()`.
        global_batch_size: images of all replicas together in one update.
        accumulate: micro-batches that a replica's part of the batch is worked through in.
            Without BatchNorm statistics and with a fixed scale the result is that of one piece.
        clip_norm: largest norm of the global batch's gradient; None does not clip.
        weight_decay, coupled_decay: see `updates.Update`.
        make_average: makes a `WeightAverage` of the model's variables, which then is what
            `evaluate` and `averaged_weights` use.
        head: the class-sharded head that `objective` uses, with its own optimizer.

    Attributes:
        totals: running sums by name, of each replica its own; the means are made from them.
        waited: seconds that the last call of `train` waited for batches.

    Raises:
        ValueError: the batch does not divide over the replicas and micro-batches.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        objective: Callable[..., dict[str, tf.Tensor]],
        optimizer: keras.optimizers.Optimizer,
        *,
        global_batch_size: int,
        accumulate: int = 1,
        clip_norm: float | None = None,
        weight_decay: float = 0.0,
        coupled_decay: bool = False,
        make_average: Callable[[list[tf.Variable]], WeightAverage] | None = None,
        head: ShardedHead | None = None,
    ):
        pieces = strategy.num_replicas_in_sync * accumulate
        if global_batch_size % pieces:
            raise ValueError(
                f"batch_size: expected a multiple of the {strategy.num_replicas_in_sync} replicas "
                f"times {accumulate} micro-batches. Received: {global_batch_size}"
            )
        self.strategy = strategy
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.global_batch_size = global_batch_size
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.head = head
        self.waited = 0.0
        replicas.fold_replica_id(model)
        frozen = getattr(objective, "freeze_batchnorm", False)
        self._statistics = [] if frozen else _statistics(model)
        with strategy.scope():
            self._average = make_average(self._averaged()) if make_average else None
            self._update = updates.Update(
                self._optimizers(),
                weight_decay=weight_decay,
                coupled_decay=coupled_decay,
                average=self._average,
            )
            self.totals = {name: _total() for name in (*SUMS, "gradient_norm", "replicas")}
            self._finite = tf.Variable(True, trainable=False)

    @property
    def step(self) -> int:
        """Steps done so far, as the optimizer counts them."""
        return int(self.optimizer.iterations.numpy())

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def checkpoint_variables(self) -> dict[str, list]:
        """Returns all state that training goes on from, by name, in a fixed order.

        `tf.Variable`s, and `ShardedTensor`s for what is split over the replicas; both can stand
        in the lists that `tf.train.Checkpoint` saves, independent of the number of replicas.
        Lists, since a checkpoint of the model as an object leaves out the random generators.
        """
        state = {
            "model": [variable.value for variable in self.model.variables],
            "optimizer": [variable.value for variable in self.optimizer.variables],
        }
        if self.head is not None:
            state["head"] = self.head.checkpoint_variables()
        if getattr(self.objective, "variables", None):
            state["objective"] = list(self.objective.variables)
        if self._average is not None:
            state["average"] = [
                self.head.sharded(average) if self.head and weight is self.head.centers else average
                for weight, average in self._average.pairs
            ] + [self._average.updates]
        return state

    @contextlib.contextmanager
    def averaged_weights(self):
        """Within it the model (and head) holds the averaged weights, if there are any."""
        average = self._average
        if average is None or not average.begun:
            yield
            return
        average.exchange(self.strategy)
        try:
            yield
        finally:
            average.exchange(self.strategy)

    def train(self, batches, steps: int, *, go_on: bool = False) -> dict[str, float]:
        """Runs `steps` steps on the device; returns the means over them.

        Args:
            batches: iterator over the distributed dataset of (image, label, weight).
            steps: number of steps.
            go_on: the means are over the steps of the calls before as well, bit for bit those of
                one call.

        Returns:
            loss, accuracy, gradient_norm (before clipping), learning_rate (of the next step), and
            scale (s) and target_cosine, if the objective has them.

        Raises:
            NonFiniteError: a loss or gradient was not finite; from that step on nothing was
                applied.
        """
        first_step = self.step
        if not go_on:
            self._reset()
        self.waited = float(self._train_loop(batches, tf.constant(steps)))
        result = {**self._means(), "learning_rate": self.learning_rate}
        if not bool(self._finite.numpy()):
            raise NonFiniteError(self.step, self.step - first_step, result)
        return result

    def evaluate(self, dataset) -> dict[str, float]:
        """Returns the mean loss and the accuracy, each image of weight 1 counted once."""
        self._reset()
        with self.averaged_weights():
            for batch in dataset:
                self._evaluate_batch(batch)
        means = self._means()
        return {name: means[name] for name in ("loss", "accuracy")}

    @tf.function
    def _train_loop(self, batches, steps):
        # Read on the host of the devices between its other operations: no round trip.
        waited = tf.constant(0.0, tf.float64)
        for _ in tf.range(steps):
            began = tf.timestamp()
            with tf.control_dependencies([began]):
                batch = next(batches)
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited += tf.timestamp() - began
            self.strategy.run(self.train_step, args=batch)
        return waited

    @tf.function
    def _evaluate_batch(self, batch):
        self.strategy.run(self._evaluate_step, args=batch)

    def train_step(self, images, labels, weights) -> None:
        """Does one step in one replica: forward, backward, sum over the replicas, update.

        Args:
            images: `(b, S, S, 3)` uint8, the replica's part of the batch.
            labels: `(b,)` int32.
            weights: `(b,)` float32.
        """
        images, labels, weights = self._static(images, labels, weights)
        kept = [(variable, tf.identity(variable)) for variable in self._statistics]
        outputs, gradients, shard_gradients = accumulation.in_pieces(
            self._gradients, (images, labels, weights), self.accumulate, self._zeros()
        )
        gradients, loss = replicas.add_up((gradients, outputs["loss"]))
        self._share_statistics()
        norm = self._norm(gradients, shard_gradients)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm) & self._finite
        before = tf.cast(self._finite, tf.float32)
        self._count({**outputs, "gradient_norm": norm}, before)
        self._finite.assign(finite)
        if self.clip_norm is not None:
            gradients = updates.clip(gradients, norm, self.clip_norm)
            shard_gradients = updates.clip(shard_gradients, norm, self.clip_norm)
        groups = [gradients, shard_gradients] if self.head is not None else [gradients]
        self._update(groups, finite, kept)

    def _optimizers(self):
        pairs = [(self.optimizer, self.model.trainable_variables)]
        return pairs if self.head is None else [*pairs, (self.head.optimizer, [self.head.centers])]

    def _averaged(self) -> list[tf.Variable]:
        """Returns weights and statistics; what else a layer remembers is not to be averaged."""
        variables = [variable.value for variable in self.model.trainable_variables]
        variables += _statistics(self.model)
        return variables if self.head is None else [*variables, self.head.centers]

    def _trained(self) -> tuple[list[tf.Variable], list[tf.Variable]]:
        """Returns the variables that every replica holds whole, and those it holds a part of."""
        shards = [self.head.centers] if self.head is not None else []
        return [variable.value for variable in self.model.trainable_variables], shards

    def _zeros(self):
        gradients = [[tf.zeros_like(v) for v in variables] for variables in self._trained()]
        return {name: tf.zeros(()) for name in SUMS}, *gradients

    def _gradients(self, images, labels, weights):
        """Returns sums over these images, and the gradients of the replica's own loss."""
        variables, shards = self._trained()
        with tf.GradientTape() as tape:
            outputs = self.objective(self.model, images, labels, training=True)
            loss = tf.reduce_sum(outputs["loss"] * weights) / self.global_batch_size
        gradients = tape.gradient(
            loss, [*variables, *shards], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        sums = _sums({**outputs, "loss": outputs["loss"] * weights}, tf.ones_like(weights))
        return sums, gradients[: len(variables)], gradients[len(variables) :]

    def _norm(self, gradients, shard_gradients):
        norm = updates.global_norm(gradients)
        if not shard_gradients:
            return norm
        squares = replicas.add_up(tf.square(updates.global_norm(shard_gradients)))
        return tf.sqrt(tf.square(norm) + squares)

    def _share_statistics(self):
        """Gives every replica the mean of all replicas' BatchNorm statistics.

        Keras leaves each replica its own. A checkpoint holds one copy, so that a run that goes on
        would have others than one that was never stopped; and evaluation would depend on which
        replica sees an image.
        """
        if self._statistics and replicas.num_replicas() > 1:
            totals = replicas.add_up([tf.identity(variable) for variable in self._statistics])
            for variable, total in zip(self._statistics, totals, strict=True):
                variable.assign(total / replicas.num_replicas())

    def _static(self, *batch):
        """Gives a batch of unknown size the one it must have."""
        size = self.global_batch_size // self.strategy.num_replicas_in_sync
        return [
            x if x.shape[0] is not None else tf.ensure_shape(x, (size, *x.shape[1:])) for x in batch
        ]

    def _evaluate_step(self, images, labels, weights):
        images, labels, weights = self._static(images, labels, weights)
        outputs = self.objective(self.model, images, labels, training=False)
        counted = tf.cast(weights > 0, tf.float32)
        loss = tf.where(weights > 0, outputs["loss"] * weights, 0.0)
        self._count({**_sums({**outputs, "loss": loss}, counted), "gradient_norm": 0.0}, 1.0)

    def _count(self, outputs, share):
        for name, value in {**outputs, "replicas": 1.0}.items():
            # Not a product: what comes after a loss that is not finite is left out, NaN as well.
            self.totals[name].assign_add(tf.where(share > 0, value, 0.0))

    def _reset(self):
        self._finite.assign(True)
        for total in self.totals.values():
            total.assign(0.0)

    def _means(self) -> dict[str, float]:
        total = {name: float(variable.numpy()) for name, variable in self.totals.items()}
        images = max(total["images"], 1.0)
        means = {"loss": total["loss"] / images, "accuracy": total["correct"] / images}
        if total["calls"]:
            means["scale"] = total["scale"] / total["calls"]
            means["target_cosine"] = total["target_cosine"] / images
        return {**means, "gradient_norm": total["gradient_norm"] / max(total["replicas"], 1.0)}


def _sums(outputs: dict[str, tf.Tensor], counted: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns what `SUMS` names; "calls" are those with a scale and a target cosine."""
    sums = {
        "loss": tf.reduce_sum(outputs["loss"]),
        "correct": tf.reduce_sum(outputs["correct"] * counted),
        "images": tf.reduce_sum(counted),
    }
    if "scale" not in outputs:
        return {**sums, "scale": tf.zeros(()), "calls": tf.zeros(()), "target_cosine": tf.zeros(())}
    return {
        **sums,
        "scale": tf.cast(outputs["scale"], tf.float32),
        "calls": tf.ones(()),
        "target_cosine": tf.reduce_sum(outputs["target_cosine"] * counted),
    }


def _total() -> tf.Variable:
    return tf.Variable(
        0.0,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )


def _statistics(model: keras.Model) -> list[tf.Variable]:
    """Returns BatchNorm's statistics, which a step writes before its loss is known."""
    layers = model._flatten_layers()
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [variable.value for layer in norms for variable in layer.non_trainable_variables]
