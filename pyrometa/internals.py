"""Private names of torch, Pyro and Python that pyrometa relies on, each with the version that it was seen in.

A private name may move with any release. Private functions and classes are imported here and nowhere else, under plain
names; private attributes of objects are read where they are needed. :data:`RELIED_ON` has a row for each of both, and
``tests/test_internals.py`` tries each row: what moved is told by name, with the files that use it.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro.infer.traceenum_elbo import _compute_model_factors as compute_model_factors
from pyro.poutine.messenger import _context_wrap as context_wrap
from pyro.poutine.runtime import _DIM_ALLOCATOR as DIM_ALLOCATOR
from pyro.poutine.runtime import _PYRO_STACK as PYRO_STACK
from torch import Tensor
from torch._C._functorch import (
    get_dynamic_layer_stack_depth,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    maybe_get_bdim,
    pop_dynamic_layer_stack,
)
from torch._ops import OpOverload
from torch._utils import _flatten_dense_tensors as flatten_dense_tensors
from torch._utils import _unflatten_dense_tensors as unflatten_dense_tensors
from torch.distributions.transforms import _InverseTransform as InverseTransform
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.overrides import _pop_mode as pop_function_mode
from torch.overrides import _push_mode as push_function_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes
from torch.utils._python_dispatch import _pop_mode as pop_dispatch_mode
from torch.utils._python_dispatch import _push_mode as push_dispatch_mode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = [
    "DIM_ALLOCATOR",
    "PYRO_STACK",
    "RELIED_ON",
    "STANDALONE_COMPILE",
    "InverseTransform",
    "NormBase",
    "OpOverload",
    "Private",
    "TorchDispatchMode",
    "TreeSpec",
    "attention_math",
    "compute_model_factors",
    "context_wrap",
    "dispatch_modes",
    "flatten_dense_tensors",
    "foreach_add",
    "foreach_copy_",
    "foreach_div",
    "function_modes",
    "get_dynamic_layer_stack_depth",
    "get_unwrapped",
    "is_all_true",
    "is_being_recorded",
    "is_functorch_wrapped_tensor",
    "is_of_all",
    "loaded_artifact",
    "make_fx",
    "maybe_get_bdim",
    "pack_padded_sequence",
    "pad_packed_sequence",
    "pop_dispatch_mode",
    "pop_dynamic_layer_stack",
    "pop_function_mode",
    "push_dispatch_mode",
    "push_function_mode",
    "sample_dirichlet",
    "standalone_compile",
    "standard_gamma",
    "standard_gamma_grad",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "unflatten_dense_tensors",
    "weight_norm",
]

attention_math = torch.ops.aten._scaled_dot_product_attention_math
foreach_add = torch._foreach_add
foreach_copy_ = torch._foreach_copy_
foreach_div = torch._foreach_div
is_all_true = torch._is_all_true
pack_padded_sequence = torch._pack_padded_sequence
pad_packed_sequence = torch._pad_packed_sequence
sample_dirichlet = torch._sample_dirichlet
standard_gamma = torch._standard_gamma
standard_gamma_grad = torch._standard_gamma_grad
weight_norm = torch._weight_norm


def is_of_all(value: Tensor) -> bool:
    """Whether a tensor holds a value for each of the tasks that vmap runs."""
    return bool(is_functorch_wrapped_tensor(value))


def is_being_recorded() -> bool:
    """Whether what runs is written down, by a dispatch mode that says that it ``records``."""
    return any(getattr(mode, "records", False) for mode in dispatch_modes())


STANDALONE_COMPILE = ("torch._inductor", "standalone_compile")
"""Where the function is that compiles a graph to a file."""


def standalone_compile(*args: Any, **kwargs: Any) -> Callable[..., Sequence[Tensor]]:
    """That function; torch takes a second to import it, and would tell of a missing GPU."""
    with _only_errors("torch.utils.cpp_extension"):
        module, name = STANDALONE_COMPILE
        compile_graph = getattr(importlib.import_module(module), name)
        made: Callable[..., Sequence[Tensor]] = compile_graph(*args, **kwargs)
        return made


def loaded_artifact(path: str) -> Callable[..., Sequence[Tensor]]:
    """What was compiled to a file."""
    with _only_errors("torch.utils.cpp_extension"):
        from torch._inductor import CompiledArtifact  # type: ignore[attr-defined]

        return CompiledArtifact.load(path=path)


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class Private(NamedTuple):
    """A private name.

    Attributes:
        owner: the module or class that has it.
        name: as it is spelled there.
        seen: the newest version that it was seen in.
        purpose: what we need it for.
    """

    owner: str
    name: str
    seen: str
    purpose: str


# Imported above, and used under the plain names.
_FUNCTIONS = (
    Private("pyro.infer.traceenum_elbo", "_compute_model_factors", "1.9.2", "TraceEnum_ELBO's terms"),
    Private("pyro.poutine.messenger", "_context_wrap", "1.9.2", "the program within a handler"),
    Private("pyro.poutine.runtime", "_DIM_ALLOCATOR", "1.9.2", "plates in force, put back after an interrupt"),
    Private("pyro.poutine.runtime", "_PYRO_STACK", "1.9.2", "handlers in force"),
    Private("torch", "_foreach_add", "2.15.0", "sums over tasks of many small gradients"),
    Private("torch", "_foreach_copy_", "2.15.0", "arguments of a CUDA graph, and its results"),
    Private("torch", "_foreach_div", "2.15.0", "means over tasks of many small gradients"),
    Private("torch", "_is_all_true", "2.15.0", "what distributions validate by"),
    Private("torch", "_pack_padded_sequence", "2.15.0", "rewritten for vmap"),
    Private("torch", "_pad_packed_sequence", "2.15.0", "rewritten for vmap"),
    Private("torch", "_sample_dirichlet", "2.15.0", "draws from a stream"),
    Private("torch", "_standard_gamma", "2.15.0", "draws from a stream"),
    Private("torch", "_standard_gamma_grad", "2.15.0", "derivative of such a draw"),
    Private("torch", "_weight_norm", "2.15.0", "rewritten for second derivatives"),
    Private("torch._C._functorch", "get_dynamic_layer_stack_depth", "2.15.0", "levels of vmap in force"),
    Private("torch._C._functorch", "get_unwrapped", "2.15.0", "the tensor under a level of vmap"),
    Private("torch._C._functorch", "is_functorch_wrapped_tensor", "2.15.0", "whether a tensor is of many tasks"),
    Private("torch._C._functorch", "maybe_get_bdim", "2.15.0", "the dimension of tasks"),
    Private("torch._C._functorch", "pop_dynamic_layer_stack", "2.15.0", "levels left open by an interrupt"),
    Private("torch._inductor", "CompiledArtifact", "2.15.0", "what was compiled in the background"),
    Private("torch._inductor", "standalone_compile", "2.15.0", "compiling in the background"),
    Private("torch._ops", "OpOverload", "2.15.0", "what a recorded node calls"),
    Private("torch._utils", "_flatten_dense_tensors", "2.15.0", "quick copies of many small tensors"),
    Private("torch._utils", "_unflatten_dense_tensors", "2.15.0", "quick copies of many small tensors"),
    Private("torch.distributions.transforms", "_InverseTransform", "2.15.0", "a transform's inverse"),
    Private("torch.nn.modules.batchnorm", "_NormBase", "2.15.0", "BatchNorm and its like, to name the cure"),
    Private("torch.ops.aten", "_scaled_dot_product_attention_math", "2.15.0", "attention differentiated twice"),
    Private("torch.overrides", "_get_current_function_mode_stack", "2.15.0", "function modes in force"),
    Private("torch.overrides", "_pop_mode", "2.15.0", "function modes left by an interrupt"),
    Private("torch.overrides", "_push_mode", "2.15.0", "function modes, put back"),
    Private("torch.utils._python_dispatch", "TorchDispatchMode", "2.15.0", "recording"),
    Private("torch.utils._python_dispatch", "_get_current_dispatch_mode_stack", "2.15.0", "dispatch modes in force"),
    Private("torch.utils._python_dispatch", "_pop_mode", "2.15.0", "dispatch modes left by an interrupt"),
    Private("torch.utils._python_dispatch", "_push_mode", "2.15.0", "dispatch modes, put back"),
    Private("torch.utils._pytree", "TreeSpec", "2.15.0", "how a recording's results hang together"),
    Private("torch.utils._pytree", "tree_flatten", "2.15.0", "tensors of nested results"),
    Private("torch.fx.experimental.proxy_tensor", "make_fx", "2.15.0", "recordings of gradients under vmap"),
    Private("torch.utils._pytree", "tree_leaves", "2.15.0", "tensors of nested results"),
    Private("torch.utils._pytree", "tree_map", "2.15.0", "tensors of nested results"),
    Private("torch.utils._pytree", "tree_unflatten", "2.15.0", "tensors of nested results"),
)

# Of objects; the owner is their class, or what makes them.
_ATTRIBUTES = (
    Private("pyro.distributions.transforms.Transform", "_cached_x_y", "1.9.2", "a cache, not watched"),
    Private("pyro.infer.RenyiELBO", "_get_traces", "1.9.2", "model and guide of each particle"),
    Private("pyro.infer.TraceEnum_ELBO", "_get_traces", "1.9.2", "model and guide of each particle"),
    Private("pyro.infer.Trace_ELBO", "_guess_max_plate_nesting", "1.9.2", "dimensions of plates"),
    Private("pyro.infer.Trace_ELBO", "_vectorized_num_particles", "1.9.2", "all particles in one trace"),
    Private("pyro.infer.autoguide.AutoGuide", "_model", "1.9.2", "what a pickled autoguide loses; not watched"),
    Private("pyro.infer.util.Dice", "_get_log_factors", "1.9.2", "scores of sampled discrete sites"),
    Private("pyro.nn.PyroModule", "_pyro_context", "1.9.2", "whether a module's parameters go by the store"),
    Private("pyro.nn.PyroModule", "_pyro_get_fullname", "1.9.2", "a parameter's name in the store"),
    Private("pyro.nn.PyroModule", "_pyro_params", "1.9.2", "constraints of PyroParams"),
    Private("pyro.nn.PyroModule", "_unconstrained", "1.9.2", "the ending of a PyroParam's own tensor"),
    Private("pyro.nn.module._Context", "_param_ctx", "1.9.2", "what writes to the store late"),
    Private("pyro.ops.packed.pack", "_pyro_dims", "1.9.2", "named dimensions of a packed tensor"),
    Private("pyro.ops.rings.LogRing", "_backend", "1.9.2", "sums in log space that vmap can batch"),
    Private("pyro.param", "_pyro_unconstrained_param", "1.9.2", "the whole of a parameter that a plate subsamples"),
    Private("pyro.params.param_store.ParamStoreDict", "_constraints", "1.9.2", "constraints of bare parameters"),
    Private("pyro.params.param_store.ParamStoreDict", "_params", "1.9.2", "which leaves the store holds"),
    Private("pyro.poutine.enum_messenger.EnumMessenger", "_enumerate_dim", "1.9.2", "whether a site is summed out"),
    Private("pyro.poutine.messenger.Messenger", "_process_message", "1.9.2", "fast weights within a hidden program"),
    Private("pyro.poutine.runtime._DimAllocator", "_stack", "1.9.2", "plates in force"),
    Private("pyro.poutine.subsample_messenger", "_Subsample", "1.9.2", "sites that choose rows, by their class's name"),
    Private("pyro.primitives.deterministic", "_deterministic", "1.9.2", "sites that are computed, by their flag"),
    Private("threading.RLock", "_is_owned", "3.13", "a lock that an interrupt left taken"),
    Private("torch.Tensor", "_cdata", "2.15.0", "a read of a tensor that uses no value"),
    Private("torch._ops.OpOverload", "_schema", "2.15.0", "an operator's name, and whether it writes"),
    Private("torch.autograd.Function", "_forward_cls", "2.15.0", "which custom function a graph went through"),
    Private("torch.autograd.graph.Node", "_DirichletBackward", "2.15.0", "draws with one derivative, by name"),
    Private("torch.distributed.ProcessGroup", "_get_backend", "2.15.0", "the group's part for a kind of device"),
    Private("torch.distributed.ProcessGroup", "_set_default_timeout", "2.15.0", "a timeout after the group's start"),
    Private("torch.distributions.Distribution", "_validate_args", "2.15.0", "validation in force"),
    Private("torch.distributions.Transform", "_inv", "2.15.0", "the transform under an inverse; not watched"),
    Private("torch.nn.Module", "_buffers", "2.15.0", "buffers as they are held"),
    Private("torch.nn.Module", "_parameters", "2.15.0", "the slots that fast weights are put in"),
    Private("torch.nn.RNNBase", "_flat_weight_refs", "2.15.0", "the weights that a recurrent layer runs on"),
    Private("torch.nn.RNNBase", "_flat_weights", "2.15.0", "the weights that a recurrent layer runs on"),
    Private("torch.nn.RNNBase", "_flat_weights_names", "2.15.0", "the weights that a recurrent layer runs on"),
    Private("torch.ops.aten", "_to_copy", "2.15.0", "a recorded copy to another type"),
    Private("torch.ops.aten", "_unsafe_view", "2.15.0", "a recorded view"),
)

RELIED_ON = _FUNCTIONS + _ATTRIBUTES
"""All of them."""
