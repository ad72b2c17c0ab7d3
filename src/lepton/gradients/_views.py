"""Three views of the tasks' gradients: additive statistics of a batch, and the Gramian formed from them.

Letters: N rows (samples, or samples times positions), D features, K tasks with heads of their own, C outputs of all
fused linear heads together, L leaves of the features. Everything here is a pure function in float32 or more.

A *statistic* is a tensor that can be summed over micro-batches and averaged over processes before the Gramian is
formed; that is what makes `fork_layer` and `parameters` exact under data parallelism. The Gramian of `features` is
itself a sum over rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "by_task",
    "features_gramian",
    "fork_layer_gramian",
    "fork_layer_kernel",
    "fork_layer_statistic",
    "index_tensor",
    "rows",
    "rows_overlap",
    "segment_index",
    "signs_statistic",
    "wide",
]


def wide(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32, or unchanged if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def rows(tensor: Tensor, feature_dim: int) -> Tensor:
    """Return features or a cotangent of any shape as a matrix [N, D]."""
    return tensor.movedim(feature_dim, -1).reshape(-1, tensor.shape[feature_dim])


_kept_indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}


def index_tensor(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Return `numbers` as a tensor on the device, without waiting for the device after the first time."""
    if torch.compiler.is_compiling():
        return torch.tensor(numbers, device=device)  # a constant of the graph
    found = _kept_indices.get((numbers, device))
    if found is None:
        with torch.inference_mode(False):
            found = torch.tensor(numbers, device=device)
        if type(found) is Tensor and len(_kept_indices) < 256:  # a fake or traced tensor must not outlive its mode
            _kept_indices[numbers, device] = found
    return found


def segment_index(segments: tuple[int, ...], device: torch.device) -> Tensor:
    """Return for each of the C fused outputs the number of its task, [C]."""
    return index_tensor(tuple(task for task, size in enumerate(segments) for _ in range(size)), device)


def by_task(columns: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Sum the last dimension, one entry for each fused output [.., C], into one entry for each task [.., T]."""
    if all(size == 1 for size in segments):
        return columns
    index = segment_index(segments, columns.device)
    out = columns.new_zeros(*columns.shape[:-1], len(segments))
    return out.index_add_(-1, index, columns)


def _blocks(pairs: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Sum a [C, C] matrix of output pairs into a [T, T] matrix of task pairs."""
    return by_task(by_task(pairs, segments).T, segments).T


def _assemble(linear: Tensor, cross: Tensor, own: Tensor) -> Tensor:
    """Join the three blocks of a symmetric Gramian."""
    return torch.cat([torch.cat([linear, cross], 1), torch.cat([cross.T, own], 1)])


def fork_layer_statistic(z: Sequence[Tensor], cotangents: Sequence[Tensor | None]) -> Tensor:
    """Return the gradients z^T c_k of the imaginary layer at the fork, [K, D, D]; zero for an absent task.

    Args:
        z: features: one matrix [N, D], or one for each task, [N_k, D].
        cotangents: K matrices of the features' shape; `None` for an absent task.
    """
    size = z[0].shape[1]
    out = z[0].new_zeros(len(cotangents), size, size, dtype=wide(z[0][:0]).dtype)
    shared = wide(z[0]).T if len(z) == 1 else None
    for k, cotangent in enumerate(cotangents):
        if cotangent is not None:
            torch.mm(wide(z[k]).T if shared is None else shared, wide(cotangent), out=out[k])
    return out


def fork_layer_gramian(
    own: Sequence[Tensor], gradient: Tensor | None, weight: Tensor | None, segments: tuple[int, ...]
) -> Tensor:
    """Return the Gramian [T, T] of the fork-layer view; fused tasks first.

    For fused linear heads with weights W_k [C_k, D] and output cotangents E_k the gradient of the imaginary layer is
    (z^T E_k) W_k, and z^T E_k is the transpose of the head's own weight gradient, so that

        G_kl = sum over outputs i of k, j of l of  (z^T E)_i . (z^T E)_j  *  W_i . W_j

    and no matrix [D, D] is made for them.

    Args:
        own: for each leaf the statistic [K, D, D] of the tasks with heads of their own.
        gradient: weight gradient [C, D] of the fused heads, E^T z.
        weight: weights [C, D] of the fused heads.
        segments: number of outputs of each fused task.
    """
    flat = [statistic.flatten(1) for statistic in own]
    own_block = sum((matrix @ matrix.T for matrix in flat[1:]), flat[0] @ flat[0].T) if flat else None
    if gradient is None or weight is None:
        assert own_block is not None
        return own_block
    fused = _blocks((gradient @ gradient.T) * (weight @ weight.T), segments)
    if own_block is None:
        return fused
    cross = torch.stack([((gradient @ matrix) * weight).sum(1) for matrix in own[0]])
    return _assemble(fused, by_task(cross, segments).T, own_block)


def fork_layer_kernel(z: Tensor, cotangents: Sequence[Tensor | None]) -> Tensor:
    """Return the fork-layer Gramian [K, K] of one leaf as <c_k, (z z^T) c_l>: cheaper where N < D."""
    stacked = torch.stack([torch.zeros_like(z) if c is None else c for c in cotangents])
    stacked = wide(stacked)
    kernel = wide(z) @ wide(z).T
    return stacked.flatten(1) @ (kernel @ stacked).flatten(1).T


def features_gramian(
    own: Sequence[Sequence[Tensor | None]],
    outputs: Tensor | None,
    weight: Tensor | None,
    segments: tuple[int, ...],
) -> Tensor:
    """Return the Gramian [T, T] of the features view, <c_k, c_l> summed over rows; fused tasks first.

    Args:
        own: for each leaf the K cotangents [N, D].
        outputs: cotangents E [N, C] of the fused linear heads, whose c_k are E_k W_k.
        weight: weights [C, D] of the fused heads.
        segments: number of outputs of each fused task.
    """
    own_block = _inner_products(own) if own else None
    if outputs is None or weight is None:
        assert own_block is not None
        return own_block
    fused = _blocks((outputs.T @ outputs) * (weight @ weight.T), segments)
    if own_block is None:
        return fused
    empty = outputs.new_zeros(outputs.shape[1])
    cross = torch.stack([empty if c is None else (outputs * (wide(c) @ weight.T)).sum(0) for c in own[0]])
    return _assemble(fused, by_task(cross, segments).T, own_block)


def _inner_products(leaves: Sequence[Sequence[Tensor | None]]) -> Tensor:
    like = next((c for column in leaves for c in column if c is not None), torch.zeros(0))
    total = wide(like.new_zeros(len(leaves[0]), len(leaves[0])))
    for cotangents in leaves:
        shape = next((c.shape for c in cotangents if c is not None), None)
        if shape is not None:  # else a leaf that no task of this batch looks at
            zero = like.new_zeros(shape)
            flat = wide(torch.stack([zero if c is None else c for c in cotangents]).flatten(1))
            total = total + flat @ flat.T
    return total


def signs_statistic(
    z: Sequence[Tensor],
    own: Sequence[Sequence[Tensor | None]],
    outputs: Tensor | None,
    weight: Tensor | None,
    segments: tuple[int, ...],
) -> Tensor:
    """Return sum over rows of sign(z) c_k, [T, D] over the features of all leaves; fused tasks first.

    Args:
        z: features [N, D] of each leaf, or of each leaf and task.
        own: for each leaf the K cotangents [N, D]; `None` for an absent task.
        outputs: cotangents E [N, C] of the fused linear heads, whose c_k are E_k W_k.
        weight: weights [C, D] of the fused heads.
        segments: number of outputs of each fused task.
    """
    each = len(z) // len(own) if own else 1
    columns = []
    for leaf in range(max(1, len(own))):
        signs = [wide(part).sign() for part in z[leaf * each : (leaf + 1) * each]]
        rows_of = (
            [] if outputs is None or weight is None else [by_task(((outputs.T @ signs[0]) * weight).T, segments).T]
        )
        if own:
            mine = [signs[k if each > 1 else 0] for k in range(len(own[leaf]))]
            empty = signs[0].new_zeros(signs[0].shape[1])
            found = [empty if c is None else (wide(c) * s).sum(0) for c, s in zip(own[leaf], mine, strict=True)]
            rows_of.append(torch.stack(found))
        columns.append(torch.cat(rows_of))
    return torch.cat(columns, 1)


def rows_overlap(
    own: Sequence[Sequence[Tensor | None]], outputs: Tensor | None, segments: tuple[int, ...]
) -> tuple[Tensor, int]:
    """Return how many rows carry a gradient of both tasks, [T, T], fused tasks first; and the number of rows."""
    like = next((c for column in own for c in column if c is not None), outputs)
    assert like is not None, "backward came without any gradient"
    empty = torch.zeros(len(like), device=like.device)
    masks: list[Tensor] = []
    if outputs is not None:
        masks.append(by_task((outputs != 0).float(), segments).clamp(max=1.0).T)
    for column in own[:1]:
        masks.append(torch.stack([empty if c is None else (c != 0).any(1).float() for c in column]))
    mask = torch.cat(masks)
    return mask @ mask.T, mask.shape[1]
