"""Training steps as CUDA graphs.

A step of BERT is a thousand small kernels, and a fast GPU waits for the host to launch each of
them. So a step is captured as a CUDA graph when a batch of its shape is first met; from then on its
batch is copied into the memory that the graph reads, and one launch replays it all: forward and
backward pass, clipping, Adam, clearing of the gradients.

Shapes must recur, so the tokens of a batch are filled up to a multiple of BUCKET with spare rows
(`padding.PackedInputs.in_bucket`). What changes from step to step besides lies on the device: the
batch, the learning rates, and the seed of dropout, which the graph takes from the generator.
"""

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch

from padding import BatchBuffer, PackedInputs, map_batch

BUCKET = 128  # rows
# The first graph of a memory pool is made for this many times the rows of its batch, so that the
# larger batches that follow find room in the pool.
HEADROOM = 1.25


class Graph(NamedTuple):
    """A captured step."""

    buffer: torch.Tensor  # of its batch, on the device
    replay: Callable  # does the step and returns the loss, which the next replay overwrites


class GraphedStep:
    """A function that does a training step by a graph, and eagerly if it cannot be captured.

    gradients    gradients(batch, totals): forward and backward pass; returns the loss
    optimizer    a BERTAdam
    eager_step   eager_step(seeds, prepared): a whole step without a graph; returns the loss
    capture      Capture of this module; in tests on a CPU a function that stands for it
    report       prints the line that says why steps run eagerly

    Capturing leaves no trace. Before it the step runs once without the optimizer, so that nothing
    is set up while it is captured, and its gradients are dropped; the capture itself computes
    nothing; and the generator is seeded before each replay. So a batch shape gives the same bits
    whether it is captured in this step or was in an earlier one.
    """

    def __init__(self, gradients, optimizer, eager_step, capture, report):
        self.gradients = gradients
        self.optimizer = optimizer
        self.eager_step = eager_step
        self.capture = capture
        self.report = report
        self.graphs = {}  # {BatchBuffer.key: Graph}
        self.most_rows = 0  # that the memory pool has room for
        self.rates = None  # learning rate of each parameter group, on the device

    def __call__(self, seeds, prepared):
        """One step of `prepared`, a BatchBuffer of ((batch,), totals), whose seed is in `seeds`."""
        graph = self.graphs.get(prepared.key)
        if graph is None and self.capture is not None:
            graph = self.make_graph(prepared)
        if graph is None:
            return self.eager_step(seeds, prepared)

        graph.buffer.copy_(prepared.buffer, non_blocking=True)
        self.set_rates()
        (seed,) = seeds
        torch.manual_seed(seed)
        loss = graph.replay().clone()
        self.optimizer.count_step()
        return loss

    def set_rates(self):
        """Brings the learning rates of the coming step to the device."""
        for rate, group in zip(self.rates, self.optimizer.param_groups):
            rate.fill_(float(self.optimizer.get_lr(group)))  # a launch: it does not wait

    def make_graph(self, prepared):
        """The Graph for batches like `prepared`; None if there is to be none, then or later."""
        if len(prepared.packed) != 1:
            return self.give_up("the batches are padded")
        try:
            return self.capture_in_pool(prepared)
        except Exception as error:  # of any kind: the eager step raises it again if it is real
            error = error.__context__ or error  # The end of a spoilt capture raises another one.
            lines = str(error).strip().splitlines() or [""]
            reason = f"a step cannot be captured: {type(error).__name__}: {lines[0]}"
        return self.give_up(reason)  # now that the error holds no memory

    def give_up(self, reason):
        """Drops all graphs, so that this step and all later ones run eagerly."""
        self.optimizer.zero_grad()
        self.graphs.clear()
        with suppress(Exception):  # memory that stays in use would be no reason to stop
            self.capture.free_pool()
        self.capture = None
        self.report(f"training without CUDA graphs, which is slower: {reason}")

    def capture_in_pool(self, prepared):
        """Captures the step of `prepared`; a batch of more rows than before starts a new pool.

        A pool that grew with each larger batch would keep memory for all of them.
        """
        packed = prepared.packed[0]
        num_rows = len(packed.indices)
        if num_rows > self.most_rows:
            self.graphs.clear()
            self.capture.new_pool()
            batch_size, width = packed.shape
            wanted = min(num_rows * HEADROOM, max(num_rows, batch_size * width))
            spare_rows = -(-int(wanted) // BUCKET) * BUCKET - num_rows
            self.most_rows = num_rows + spare_rows
            if spare_rows > 0:
                larger = map_batch(
                    lambda packed: packed.with_spare_rows(spare_rows), prepared.batch, PackedInputs
                )
                self.add(BatchBuffer(larger, prepared.device))
        return self.add(prepared)

    def add(self, prepared):
        """Captures the step of `prepared` and keeps its Graph."""
        buffer = prepared.buffer.to(prepared.device, copy=True)
        (batch,), totals = prepared.batch_in(buffer)
        if self.rates is None:
            groups = self.optimizer.param_groups
            self.rates = [torch.zeros((), device=prepared.device) for _ in groups]

        def warm_up():
            self.gradients(batch, totals)
            self.optimizer.make_moments()
            self.optimizer.global_norm()
            self.optimizer.zero_grad(reuse_memory=True)

        def step():
            loss = self.gradients(batch, totals)
            self.optimizer.apply(self.rates)
            self.optimizer.zero_grad(reuse_memory=True)
            return loss

        graph = Graph(buffer, self.capture(warm_up, step))
        self.graphs[prepared.key] = graph
        return graph


class Capture:
    """Captures functions as CUDA graphs that share one memory pool.

    They may share it because nothing in it has to survive a replay except the loss, which is copied
    at once.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.new_pool()

    def new_pool(self) -> None:
        """Graphs to come take memory of their own. The old pool is freed with its last graph."""
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, warm_up: Callable, step: Callable) -> Callable:
        """A function that replays `step` and returns its result; `warm_up` is called before."""
        current = torch.cuda.current_stream(self.device)
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(current)
        try:
            # On the stream of the capture: gradients are added up on the stream of their pass.
            with torch.cuda.stream(self.stream):
                warm_up()
            current.wait_stream(self.stream)
            # Other threads, e.g. that which prepares batches, may go on allocating.
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                result = step()
        except Exception:
            # A capture that failed leaves its stream as the current one, and the generator as if it
            # were still capturing.
            torch.cuda.set_stream(current)
            generator = torch.cuda.default_generators[self.device.index]
            generator.graphsafe_set_state(torch.Generator(self.device))
            raise

        def replay():
            graph.replay()
            return result

        return replay

    def free_pool(self) -> None:
        """Frees the memory of the pool when its graphs are gone.

        After a capture that failed, PyTorch 2.11 to 2.13 would keep it until the process ends.
        """
        gc.collect()  # A graph may be in a cycle with the error that ended its capture.
        device = self.device.index
        with suppress(RuntimeError):  # where no capture has left the pool open
            torch._C._cuda_endAllocateToPool(device, self.pool)
        torch.cuda.empty_cache()
        kept = [x for x in torch.cuda.memory_snapshot() if x["segment_pool_id"] == self.pool]
        if not all(segment["active_size"] for segment in kept):
            # What nothing uses is kept only for a capture that still counts as a user of the pool.
            torch._C._cuda_releasePool(device, self.pool)
            torch.cuda.empty_cache()
