"""Which operators an exported PyTorch program may call: a list, and what is denied within it.

Allowed are three namespaces of PyTorch's own operators (``aten``, ``prims`` and
``quantized_decomposed``) and arithmetic of Python's on sizes. Of ``aten`` the private
operators, whose names begin with an underscore, are allowed one by one: many do not look at
what they are given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from falaj.kernel.errors import InvalidInput

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed)\.([A-Za-z0-9_]+)\.([A-Za-z][A-Za-z0-9_]*)"
)
_PYTHON = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(trunc|floor|ceil)"
)
_DENIED = re.compile(
    r"from_file|save|set_.*|.*resize.*|.*empty.*|warn|manual_seed|(initial_)?seed|record_stream"
    r"|pin_memory|data|lift|.*unsafe_index.*|.*_unsafe|.*backward.*|.*sparse.*|.*nested.*|.*jagged.*"
    r"|(fbgemm|mkldnn|cudnn|miopen|mps)_.*|to_mkldnn|copy_to_.*|device_put"
)
"""They read or write files, tell what the memory held before, change the state of the
process, do not look where they read or write, or belong to a device or to training."""
_NAMES = """
    __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__
    _adaptive_avg_pool2d _adaptive_avg_pool3d _addmm_activation _aminmax _assert_async
    _assert_scalar _assert_tensor_metadata _batch_norm_no_update _cast_Byte _cast_Char
    _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _cdist_forward _conj
    _conj_copy _conj_physical _convolution _convolution_mode _dim_arange _embedding_bag
    _embedding_bag_forward_only _euclidean_dist _fft_c2c _fft_c2r _fft_r2c
    _functional_assert_async _functional_assert_scalar _functional_sym_constrain_range
    _functional_sym_constrain_range_for_size _fused_rms_norm _int_mm _is_all_true _is_any_true
    _linalg_check_errors _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet
    _linalg_solve_ex _linalg_svd _local_scalar_dense _log_softmax _logcumsumexp _masked_scale
    _masked_softmax _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view _neg_view_copy
    _pad_circular _pad_enum _pdist_forward _prelu_kernel _safe_softmax
    _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu _softmax
    _shape_as_tensor _stack _to_copy _transformer_encoder_layer_fwd _trilinear _unique _unique2
    _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm _weight_norm_interface
"""
_PRIVATE = frozenset(_NAMES.split())


def may_be_called(target: str) -> bool:
    """True if a graph may name this operator; PyTorch need not be installed."""
    found = _OPERATOR.fullmatch(target)
    if found is None:
        return _PYTHON.fullmatch(target) is not None
    namespace, name = found[1], found[2]
    if name.startswith("_"):
        return namespace == "aten" and name in _PRIVATE
    return not _DENIED.fullmatch(name)


def check_registered(targets: Iterable[str]) -> None:
    """Check that each operator of PyTorch's is one of its dispatcher, and no Python besides.

    The same names also reach attributes of Python objects, and builtins of TorchScript (files,
    the state of the process) that no program of tensors needs.

    Raises:
        InvalidInput: one is not.
    """
    import torch

    found = [match for match in map(_OPERATOR.fullmatch, targets) if match is not None]
    if any(match[1] == "quantized_decomposed" for match in found):
        import torch.ao.quantization.fx._decomposed  # it registers them
    known = set(torch._C._dispatch_get_all_op_names())
    for match in found:
        namespace, name, overload = match.groups()
        full = f"{namespace}::{name}" + ("" if overload == "default" else f".{overload}")
        if full not in known:
            raise refused(f"{match[0]!r} is no operator of this PyTorch")


def refused(why: str) -> InvalidInput:
    """That a program is not served, and why."""
    return InvalidInput(
        f"The PyTorch program is not served: {why}.",
        hint="Export a program of PyTorch's own operators with torch.export.",
    )
