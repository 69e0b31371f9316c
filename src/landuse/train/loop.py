"""The training loop, in TensorFlow graphs: a call from Python costs more than a step of a small network."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from landuse.ml.network import device
from landuse.params import TrainParams
from landuse.train.batches import BatchLoader, Chunk

Totals = tuple[tf.Tensor, tf.Tensor]  # of some batches: the sum of the losses, and the number of correct images


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of an epoch so far: mean loss, accuracy and throughput."""

    loss: float
    accuracy: float
    images_per_second: float


OnBatchesEnd = Callable[[int, EpochMetrics], None]  # takes the number of processed images


class TrainingLoop:
    """A network in training: `embedder` followed by `head`. `train_epoch` and `eval_epoch` each make one epoch.

    It can be `reset` any number of times. Hyperparameters are kept in variables, because building the graph of a step
    takes longer than training a head.
    """

    def __init__(self, embedder: keras.Model, head: keras.layers.Layer, train: BatchLoader) -> None:
        self.embedder, self.head = embedder, head
        self.variables = [*embedder.trainable_variables, *head.trainable_variables]
        self.class_weights = tf.constant(train.class_weights())
        self.batch_size, self.seed = tf.Variable(1), tf.Variable(0)
        self.label_smoothing, self.dropout, self.weight_decay = (tf.Variable(0.0) for _ in range(3))
        adam = keras.optimizers.AdamW(0.0, weight_decay=self.weight_decay)
        self.optimizer = keras.optimizers.LossScaleOptimizer(adam) if device() == "GPU" else adam
        self.optimizer.build(self.variables)
        self.initial_state = [np.array(variable) for variable in self.optimizer.variables]
        inputs = tf.TensorSpec((None, *train.example.shape[1:]), train.example.dtype)
        signature = [inputs, tf.TensorSpec((None, train.labels.shape[1])), tf.TensorSpec((None,))]
        self.train_chunk = tf.function(self.train_batches, input_signature=[*signature, tf.TensorSpec((None,))])
        self.eval_chunk = tf.function(self.eval_batches, input_signature=signature)

    def reset(self, params: TrainParams, steps_per_epoch: int) -> None:
        """Reset the optimizer and set the hyperparameters. The weights of the network stay."""
        for variable, value in zip(self.optimizer.variables, self.initial_state, strict=True):
            variable.assign(value)
        for name in ("batch_size", "seed", "label_smoothing", "dropout", "weight_decay"):
            getattr(self, name).assign(getattr(params, name))
        self.remaining_rates = learning_rates(params, steps_per_epoch)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; 0 after the last one."""
        return float(self.remaining_rates[0]) if len(self.remaining_rates) else 0.0

    def train_epoch(self, loader: BatchLoader, on_batches_end: OnBatchesEnd) -> EpochMetrics:
        """Train for one epoch."""

        def step(chunk: Chunk) -> Totals:
            batches = -(-len(chunk.labels) // loader.batch_size)
            rates, self.remaining_rates = np.split(self.remaining_rates, [batches])
            totals: Totals = self.train_chunk(*chunk, rates)
            return totals

        return run_epoch(step, loader, on_batches_end)

    def eval_epoch(self, loader: BatchLoader, on_batches_end: OnBatchesEnd) -> EpochMetrics:
        """Evaluate for one epoch, without changing the network."""
        return run_epoch(lambda chunk: self.eval_chunk(*chunk), loader, on_batches_end)

    def train_batches(self, inputs: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, rates: tf.Tensor) -> Totals:
        """Make one step per batch and learning rate. Images count as correct by the weights before their step."""
        total, correct, mask = tf.zeros(()), tf.zeros(()), self.dropout_mask(tf.shape(labels)[0])
        for number in tf.range(tf.size(rates)):
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            batch = tf.cast(mixup(inputs[rows], weights[rows]), self.embedder.inputs[0].dtype)
            targets = mixup(labels[rows], weights[rows])
            with tf.GradientTape() as tape:
                probabilities = self.head(self.embedder(batch, training=True) * mask[rows])
                losses = self.losses(targets, probabilities) * tf.linalg.matvec(targets, self.class_weights)
                loss = self.optimizer.scale_loss(tf.reduce_mean(losses))
            self.optimizer.learning_rate.assign(rates[number])
            self.optimizer.apply(tape.gradient(loss, self.variables), self.variables)
            total += tf.reduce_sum(losses)
            correct += count_correct(targets, probabilities)
        return total, correct

    def eval_batches(self, inputs: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> Totals:
        """Evaluate batches, without class weights and mixup."""
        total, correct = tf.zeros(()), tf.zeros(())
        for start in tf.range(0, tf.shape(labels)[0], self.batch_size):
            rows = slice(start, start + self.batch_size)
            embeddings = self.embedder(tf.cast(inputs[rows], self.embedder.inputs[0].dtype), training=False)
            probabilities = self.head(embeddings)
            total += tf.reduce_sum(self.losses(labels[rows], probabilities))
            correct += count_correct(labels[rows], probabilities)
        return total, correct

    def dropout_mask(self, count: tf.Tensor) -> tf.Tensor:
        """Sample an inverted dropout mask [count, channels]: 0 for dropped features, 1 / (1 - rate) for the others.

        Sampled for a whole chunk, since sampling for each batch would take as long as the rest of a head's step.
        """
        seed = (self.seed, tf.cast(self.optimizer.iterations, tf.int32))
        uniform = tf.random.stateless_uniform((count, self.embedder.output.shape[-1]), seed)
        mask = tf.cast(uniform >= self.dropout, tf.float32) / (1 - self.dropout)
        return tf.cast(mask, self.embedder.output.dtype)

    def losses(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        """Return the cross-entropy of each image [n] with smoothed labels."""
        classes = labels.shape[1]
        smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / classes
        return keras.losses.categorical_crossentropy(smoothed, probabilities)


def mixup(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Blend each of the values [n, …] with its counterpart in reverse order (mixup; Zhang et al., 2018)."""
    values = tf.cast(values, tf.float32)
    weights = tf.reshape(weights, [-1, *[1] * (values.shape.rank - 1)])
    return weights * values + (1 - weights) * values[::-1]


def count_correct(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Count images whose predicted class has the largest label; with mixup, that of the dominant image."""
    return tf.reduce_sum(tf.cast(tf.argmax(labels, 1) == tf.argmax(probabilities, 1), tf.float32))


def run_epoch(step: Callable[[Chunk], Totals], loader: BatchLoader, on_batches_end: OnBatchesEnd) -> EpochMetrics:
    """Run a step over all chunks of an epoch and return its metrics."""
    start, done, total, correct = perf_counter(), 0, 0.0, 0.0
    for chunk in loader:
        totals = step(chunk)
        done, total, correct = done + len(chunk.labels), total + float(totals[0]), correct + float(totals[1])
        metrics = EpochMetrics(total / done, correct / done, done / (perf_counter() - start))
        on_batches_end(done, metrics)
    return metrics


def learning_rates(params: TrainParams, steps_per_epoch: int) -> NDArray[np.float32]:
    """Return the learning rate of every step: linear warm-up to the peak, then cosine decay to 0."""
    steps = params.epochs * steps_per_epoch
    warmup = int(params.warmup * steps)
    step = np.arange(steps)
    decay = (1 + np.cos(np.pi * (step - warmup) / max(steps - warmup, 1))) / 2
    rates: NDArray[np.floating] = params.learning_rate * np.where(step < warmup, step / max(warmup, 1), decay)
    return rates.astype(np.float32)
