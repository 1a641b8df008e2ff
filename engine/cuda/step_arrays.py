"""A step's integers, laid out in one buffer so that one copy takes them to the GPU.

Sequences with one row (decodes) come first, then the prompts; both may be followed by padding.

Legend: T rows (padded rows included), B sequences, P blocks per table, N sampled rows, M tiles.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from lorax_serve.engine.step import Step
from lorax_serve.kernels.triton.host_copy import copy_from_host

Array = TypeVar("Array")
Int32s = npt.NDArray[np.int32]

_ALIGNMENT = 16  # elements: sections start at multiples of 64 bytes


@dataclass(frozen=True, slots=True)
class StepArrays(Generic[Array]):
    """Views of the buffer's sections, on the host or on the device."""

    input_ids: Array  # [T]; where sources is -1
    sources: Array  # [T]: place of the row's id among those sampled by the step before, or -1
    positions: Array  # [T]
    slot_mapping: Array  # [T]; -1: padding
    context_lens: Array  # [B]
    block_tables: Array  # [B, P]
    query_indptr: Array  # [B + 1]
    sampled_rows: Array  # [N]
    tiles: Array  # [M, 3], see kernels/lora_table.py
    head_tiles: Array  # [M', 3], of the sampled rows


@dataclass(frozen=True, slots=True)
class StepShape:
    """How many sequences and rows there is room for."""

    num_decodes: int  # sequences of one row
    num_prompts: int = 0  # sequences of any number of rows
    num_prompt_rows: int = 0  # of all prompts together

    @staticmethod
    def of(step: Step) -> "StepShape":
        """With room for this step and no more."""
        num_prompts = len(step.scheduled) - step.num_decodes
        return StepShape(step.num_decodes, num_prompts, step.num_tokens - step.num_decodes)

    @property
    def num_sequences(self) -> int:
        return self.num_decodes + self.num_prompts

    @property
    def num_rows(self) -> int:
        return self.num_decodes + self.num_prompt_rows

    def holds(self, other: "StepShape") -> bool:
        return (
            self.num_decodes >= other.num_decodes
            and self.num_prompts >= other.num_prompts
            and self.num_prompt_rows >= other.num_prompt_rows
        )


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where the sections of steps of one shape lie."""

    shape: StepShape
    table_width: int
    num_sampled: int
    num_tiles: int
    num_head_tiles: int

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        rows, sequences = self.shape.num_rows, self.shape.num_sequences
        return (
            (rows,),
            (rows,),
            (rows,),
            (rows,),
            (sequences,),
            (sequences, self.table_width),
            (sequences + 1,),
            (self.num_sampled,),
            (self.num_tiles, 3),
            (self.num_head_tiles, 3),
        )

    @property
    def num_elements(self) -> int:
        return sum(_padded(_size(shape)) for shape in self._shapes)

    def host_views(self, buffer: Int32s) -> StepArrays[Int32s]:
        sections, start = [], 0
        for shape in self._shapes:
            size = _size(shape)
            sections.append(buffer[start : start + size].reshape(shape))
            start += _padded(size)
        return StepArrays(*sections)

    def device_views(self, buffer: torch.Tensor) -> StepArrays[torch.Tensor]:
        sections, start = [], 0
        for shape in self._shapes:
            size = _size(shape)
            sections.append(buffer[start : start + size].view(shape))
            start += _padded(size)
        return StepArrays(*sections)


class StepUpload:
    """One device buffer, and two pinned ones that take turns.

    A pinned buffer is written again two uploads later, once its copy is done. Steps that sample
    nothing (chunks of a long prompt) are awaited by nobody else, so the host may run ahead of them.
    """

    def __init__(self, num_elements: int, device: torch.device) -> None:
        self.device_buffer = torch.zeros(num_elements, dtype=torch.int32, device=device)
        self._pinned = [
            torch.zeros(num_elements, dtype=torch.int32, pin_memory=True) for _ in range(2)
        ]
        self._arrays = [tensor.numpy() for tensor in self._pinned]
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._turn = 0

    def begin(self) -> Int32s:
        """The host buffer of the next step; what it holds is of an older one.

        Waits until the device has taken that older one.
        """
        self._turn = 1 - self._turn
        self._copied[self._turn].synchronize()
        return self._arrays[self._turn]

    def send(self, num_elements: int) -> None:
        """Copy the buffer's beginning to the device, after the steps launched before."""
        source = self._pinned[self._turn][:num_elements]
        copy_from_host(source, self.device_buffer[:num_elements])
        self._copied[self._turn].record()


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
