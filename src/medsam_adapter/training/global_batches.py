"""Which samples are whose: the batches of one process, cut into parts for several.

Accelerate's own way gives a process that goes short samples from the start of the epoch, which are then learned twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset, Sampler

_ORDER = 1  # separates the order of the samples from other draws of the same seed


class GlobalBatches(Sampler[list[tuple[int, bool]]]):
    """This process's part of each batch of all processes: (number of a sample, whether it counts).

    A batch of all holds `batch_size * num_processes` samples, in an order that (seed, epoch) alone says; it is the
    batch that one process of that batch size would have. Process 0 has its first samples. A process that would go short
    in the last batch is given samples that do not count, so that all take the same steps and none is learned twice.

    Args:
        batch_size: samples of one process in a step.
        drop_last: leave out a last batch that is not full, instead of filling it up.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ):
        self.num_samples, self.batch_size, self.seed, self.epoch = num_samples, batch_size, seed, 0
        self.process_index, self.num_processes, self.drop_last = process_index, num_processes, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Another epoch, another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        batches = self.num_samples / (self.batch_size * self.num_processes)
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        order = np.random.default_rng((self.seed, self.epoch, _ORDER)).permutation(self.num_samples).tolist()
        size = self.batch_size * self.num_processes
        for number in range(len(self)):
            whole = order[number * size : (number + 1) * size]
            share = math.ceil(len(whole) / self.num_processes)
            mine = whole[self.process_index * share : (self.process_index + 1) * share]
            yield [(index, True) for index in mine] + [(whole[0], False)] * (share - len(mine))


class _Numbered(Dataset):
    """A data set's items with their number (`sample`), and whether they count (`counts`)."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def __getitem__(self, place: tuple[int, bool]) -> dict:
        index, counts = place
        return {**self.dataset[index], "sample": torch.tensor(index), "counts": torch.tensor(counts)}


def shared_loader(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    accelerator: Accelerator,
    collate: Callable[[Sequence[dict]], dict],
    workers: int = 0,
    drop_last: bool = False,
) -> DataLoader:
    """A loader of this process's part of each batch (`GlobalBatches`), on its device.

    It is ready for use: `accelerator.prepare` would share it out a second time.
    """
    batches = GlobalBatches(
        len(dataset), batch_size, seed, accelerator.process_index, accelerator.num_processes, drop_last
    )
    loader = DataLoader(_Numbered(dataset), batch_sampler=batches, collate_fn=collate, num_workers=workers)
    return prepare_data_loader(
        loader, accelerator.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
    )
