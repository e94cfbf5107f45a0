"""The private names that pyrometa relies on: that each is where it was, and does what it did."""

import ast
import importlib
import inspect
import re
import sys
import threading
import weakref
from datetime import timedelta
from pathlib import Path

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.util import Dice
from pyro.nn import PyroModule, PyroParam
from pyro.ops import packed, rings
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import distributed, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from pyrometa import internals
from pyrometa.internals import RELIED_ON

PACKAGE = Path(__file__).parents[1] / "pyrometa"
SOURCES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
DOCUMENTED = {"_getframe", "_fields", "_make"}  # public in all but the underscore

CHECKS = {}


def shows(owner, *names):
    """Registers what shows that these names of an owner do what we rely on."""

    def register(check):
        CHECKS.update(((owner, name), check) for name in names)
        return check

    return register


class Scaled(PyroModule):
    """Has a PyroParam."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(2.0), constraint=dist.constraints.positive)

    def forward(self):
        return self.scale


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(x):
    pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.5)), 1.0))


DATA = torch.arange(3.0)


def coin():
    pyro.sample("coin", dist.Bernoulli(0.25), infer={"enumerate": "parallel"})


@shows("pyro.infer.traceenum_elbo", "_compute_model_factors")
def model_factors():
    guide_trace = poutine.trace(lambda: None).get_trace()
    enumerated = pyro.poutine.enum(coin, first_available_dim=-1)
    model_trace = poutine.trace(enumerated).get_trace()
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
        trace.pack_tensors()
    costs, factors, ordering, enum_dims, scale = internals.compute_model_factors(model_trace, guide_trace)
    ((term,),) = factors.values()
    assert torch.allclose(term.exp(), torch.tensor([0.75, 0.25]))
    assert (costs, scale, len(enum_dims)) == ({}, 1, 1)
    assert ordering["coin"] == frozenset()


@shows("pyro.poutine.messenger", "_context_wrap")
def handler_wraps():
    handled = poutine.scale(model, 2.0).func
    assert handled.func is internals.context_wrap
    assert handled.args[1] is model


@shows("pyro.poutine.runtime", "_PYRO_STACK")
def handlers_in_force():
    assert internals.PYRO_STACK == []
    with poutine.block() as handler:
        assert [handler] == internals.PYRO_STACK


@shows("pyro.poutine.runtime", "_DIM_ALLOCATOR")
@shows("pyro.poutine.runtime._DimAllocator", "_stack")
def plates_in_force():
    assert internals.DIM_ALLOCATOR is _DIM_ALLOCATOR
    with pyro.plate("rows", 3):
        assert internals.DIM_ALLOCATOR._stack == ["rows"]
    assert internals.DIM_ALLOCATOR._stack == []


def functions_seen(run):
    """The functions that reach a function mode."""
    seen = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seen():
        run()
    return seen


@shows("torch.distributed.ProcessGroup", "_get_backend", "_set_default_timeout")
def timeout_of_a_group():
    store, cpu, (brief, long) = distributed.HashStore(), torch.device("cpu"), map(timedelta, (1, 2))
    group = distributed.ProcessGroup(store, 0, 1)
    on_cpu = distributed.ProcessGroupGloo(store, 0, 1, brief)
    group._register_backend(cpu, distributed.ProcessGroup.BackendType.GLOO, on_cpu)
    assert group._get_backend(cpu).options._timeout == brief
    group._get_backend(cpu)._set_default_timeout(long)
    assert group._get_backend(cpu).options._timeout == long


@shows("torch._inductor", "CompiledArtifact", "standalone_compile")
def files_of_compiled_graphs():
    module, name = internals.STANDALONE_COMPILE
    compiled = getattr(importlib.import_module(module), name)
    assert {"dynamic_shapes", "options"} <= inspect.signature(compiled).parameters.keys()
    with pytest.raises(FileNotFoundError):
        internals.loaded_artifact("no such file")


@shows("torch", "_is_all_true")
def validation_asks():
    seen = functions_seen(lambda: dist.Normal(0.0, torch.ones(2), validate_args=True))
    assert internals.is_all_true in seen
    assert internals.is_all_true(torch.ones(2, dtype=torch.bool))


@shows("torch", "_pack_padded_sequence", "_pad_packed_sequence")
def sequences():
    rows, lengths = torch.arange(6.0).view(2, 3, 1), torch.tensor([3, 1])

    def there_and_back():
        there = nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True)
        nn.utils.rnn.pad_packed_sequence(there, batch_first=True)

    seen = functions_seen(there_and_back)
    assert internals.pack_padded_sequence in seen
    assert internals.pad_packed_sequence in seen
    data, sizes = internals.pack_padded_sequence(rows, lengths, True)
    assert sizes.tolist() == [2, 1, 1]
    back, again = internals.pad_packed_sequence(data, sizes, True, -1.0, 3)
    assert again.tolist() == [3, 1]
    assert back.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, -1.0, -1.0]


@shows("torch", "_standard_gamma", "_sample_dirichlet", "_standard_gamma_grad")
@shows("torch.autograd.graph.Node", "_DirichletBackward")
def gamma_draws():
    alpha = torch.tensor([2.0, 3.0], requires_grad=True)
    seen = functions_seen(lambda: [dist.Gamma(alpha, 1.0).rsample(), dist.Dirichlet(alpha).sample()])
    assert {internals.standard_gamma} <= set(seen)
    one, other = (internals.standard_gamma(alpha, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    (grad,) = torch.autograd.grad(one.sum(), alpha)
    assert torch.equal(grad, internals.standard_gamma_grad(alpha, one).detach())
    share = internals.sample_dirichlet(alpha.detach(), generator=torch.Generator().manual_seed(3))
    assert torch.allclose(share.sum(), torch.tensor(1.0))
    assert dist.Dirichlet(alpha).rsample().grad_fn.name().startswith("_DirichletBackward")
    assert one.grad_fn.name().startswith("StandardGammaBackward")


@shows("torch", "_weight_norm")
def weight_norm():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert internals.weight_norm in functions_seen(lambda: layer(torch.ones(1, 2)))


@shows(
    "torch._C._functorch",
    "get_dynamic_layer_stack_depth",
    "get_unwrapped",
    "is_functorch_wrapped_tensor",
    "maybe_get_bdim",
    "pop_dynamic_layer_stack",
)
def levels_of_vmap():
    tasks, seen = torch.arange(6.0).view(2, 3), []

    def one(task):
        seen.append(internals.get_unwrapped(task))
        assert internals.is_functorch_wrapped_tensor(task)
        assert internals.maybe_get_bdim(task) == 1
        assert internals.get_dynamic_layer_stack_depth() == 1
        return task

    vmap(one, in_dims=1)(tasks)
    assert seen[0].data_ptr() == tasks.data_ptr()
    assert not internals.is_functorch_wrapped_tensor(tasks)
    assert internals.get_dynamic_layer_stack_depth() == 0
    torch._C._functorch._vmap_increment_nesting(2, "error")
    internals.pop_dynamic_layer_stack()
    assert internals.get_dynamic_layer_stack_depth() == 0


@shows("torch._ops", "OpOverload")
@shows("torch._ops.OpOverload", "_schema")
@shows("torch.ops.aten", "_to_copy")
def recorded_operations():
    seen = []

    class Mode(internals.TorchDispatchMode):
        records = True

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2)
    with Mode():
        assert internals.is_being_recorded()
        x.double().exp_()
    assert not internals.is_being_recorded()
    copy, exp = seen
    assert copy is torch.ops.aten._to_copy.default
    assert isinstance(exp, internals.OpOverload)
    assert exp._schema.name == "aten::exp_"
    assert exp._schema.is_mutable
    assert not copy._schema.is_mutable


@shows("torch.ops.aten", "_unsafe_view")
def recorded_view():
    x = torch.ones(2, 3)
    assert torch.ops.aten._unsafe_view.default(x, [6]).shape == (6,)


@shows("torch._utils", "_flatten_dense_tensors", "_unflatten_dense_tensors")
def end_to_end():
    parts = [torch.ones(2, 2), torch.zeros(3)]
    flat = internals.flatten_dense_tensors(parts)
    assert flat.shape == (7,)
    assert all(map(torch.equal, internals.unflatten_dense_tensors(flat, parts), parts))


@shows("torch", "_foreach_add", "_foreach_copy_", "_foreach_div")
def one_call_for_many():
    sums = internals.foreach_add([torch.ones(2, 2), torch.zeros(3)], [torch.ones(2, 2), torch.ones(3)])
    means = internals.foreach_div(sums, 2)
    assert torch.equal(means[0], torch.ones(2, 2))
    assert torch.equal(means[1], torch.full((3,), 0.5))
    internals.foreach_copy_(means, [torch.zeros(2, 2), torch.ones(3)])
    assert torch.equal(means[1], torch.ones(3))


@shows("torch.distributions.transforms", "_InverseTransform")
@shows("torch.distributions.Transform", "_inv")
@shows("pyro.distributions.transforms.Transform", "_cached_x_y")
def transform_inverses():
    transform = dist.transforms.ExpTransform(cache_size=1)
    inverse = transform.inv
    assert isinstance(inverse, internals.InverseTransform)
    assert inverse._inv is transform
    assert transform._inv is not None
    x = torch.ones(1)
    assert transform._cached_x_y[0] is not x
    y = transform(x)
    assert transform._cached_x_y == (x, y)


@shows("torch.nn.modules.batchnorm", "_NormBase")
def batch_norms():
    kinds = (nn.BatchNorm1d, nn.SyncBatchNorm, nn.InstanceNorm2d)
    assert all(issubclass(kind, internals.NormBase) for kind in kinds)
    assert not issubclass(nn.GroupNorm, internals.NormBase)


@shows("torch.ops.aten", "_scaled_dot_product_attention_math")
def attention():
    query, key, value = torch.randn(3, 2, 4, 5).unbind(0)
    output, weights = internals.attention_math(query, key, value, None, 0.0, True)
    assert torch.allclose(output, F.scaled_dot_product_attention(query, key, value, is_causal=True), atol=1e-6)
    assert torch.allclose(weights @ value, output)


@shows("torch.overrides", "_get_current_function_mode_stack", "_pop_mode", "_push_mode")
def function_modes_in_force():
    class Mode(TorchFunctionMode):
        pass

    with Mode() as mode:
        assert internals.function_modes() == [mode]
        assert internals.pop_function_mode() is mode
        assert internals.function_modes() == []
        internals.push_function_mode(mode)


@shows(
    "torch.utils._python_dispatch",
    "TorchDispatchMode",
    "_get_current_dispatch_mode_stack",
    "_pop_mode",
    "_push_mode",
)
def dispatch_modes_in_force():
    seen = []

    class Mode(internals.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode() as mode:
        assert internals.dispatch_modes() == [mode]
        assert internals.pop_dispatch_mode() is mode
        assert internals.dispatch_modes() == []
        internals.push_dispatch_mode(mode)
        torch.ones(2).neg()
    assert torch.ops.aten.neg.default in seen


@shows("torch.fx.experimental.proxy_tensor", "make_fx")
def _():
    gradients = torch.func.vmap(torch.func.grad(lambda x, scale: scale * x.square()), (0, None))
    recorded = internals.make_fx(lambda x, scale: gradients(x, scale))(torch.zeros(3), torch.ones(()))
    assert torch.equal(recorded(torch.arange(3.0), torch.tensor(2.0)), torch.tensor([0.0, 4.0, 8.0]))


@shows("torch.utils._pytree", "TreeSpec", "tree_flatten", "tree_leaves", "tree_map", "tree_unflatten")
def trees():
    tree = {"a": (1, [2]), "b": None}
    leaves, spec = internals.tree_flatten(tree)
    assert leaves == internals.tree_leaves(tree) == [1, 2, None]
    assert isinstance(spec, internals.TreeSpec)
    assert internals.tree_unflatten([3, 4, 5], spec) == {"a": (3, [4]), "b": 5}
    assert internals.tree_map(str, tree) == {"a": ("1", ["2"]), "b": "None"}


@shows("pyro.infer.RenyiELBO", "_get_traces")
def renyi_traces():
    (model_trace, guide_trace), _ = RenyiELBO(num_particles=2)._get_traces(model, guide, (DATA,), {})
    assert model_trace.nodes["x"]["log_prob"].shape == (3,)
    assert len(guide_trace.nodes["loc"]["score_parts"]) == 3


@shows("pyro.infer.TraceEnum_ELBO", "_get_traces")
def enumerated_traces():
    enumerated = pyro.infer.config_enumerate(coin, "parallel")
    ((model_trace, guide_trace),) = TraceEnum_ELBO(max_plate_nesting=0)._get_traces(coin, enumerated, (), {})
    assert model_trace.nodes["coin"]["packed"]["log_prob"].shape == (2,)
    assert "log_prob" in guide_trace.nodes["coin"]["packed"]


@shows("pyro.infer.Trace_ELBO", "_guess_max_plate_nesting", "_vectorized_num_particles")
def particles():
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True)
    elbo._guess_max_plate_nesting(model, guide, (DATA,), {})
    assert elbo.max_plate_nesting == 2  # that of the particles too
    trace = poutine.trace(elbo._vectorized_num_particles(guide)).get_trace(DATA)
    assert trace.nodes["loc"]["value"].shape == (4, 1)


@shows("pyro.infer.autoguide.AutoGuide", "_model")
def autoguide_model():
    autoguide = AutoNormal(model)
    (held,) = autoguide._model
    assert autoguide.model is held


@shows("pyro.infer.util.Dice", "_get_log_factors")
def dice_factors():
    trace = poutine.trace(lambda: pyro.sample("coin", dist.Bernoulli(0.25))).get_trace()
    trace.compute_score_parts()
    trace.pack_tensors()
    (factor,) = Dice(trace, {"coin": frozenset()})._get_log_factors(frozenset())
    assert factor == 0.0 or float(factor) == 0.0


@shows("torch.nn.Module", "_parameters")
def parameter_slots():
    layer = nn.Linear(2, 1)
    layer._parameters["weight"] = torch.zeros(1, 2)
    assert torch.equal(layer(torch.ones(2)), layer.bias)


@shows("pyro.nn.PyroModule", "_pyro_context", "_pyro_get_fullname", "_pyro_params", "_unconstrained")
def pyro_parameters():
    module = Scaled()
    context = module._pyro_context
    assert not context.used
    module()
    assert (context.used, context.active, context.cache) == (True, 0, {})
    assert module._pyro_params["scale"][0] is dist.constraints.positive
    assert module._pyro_get_fullname("scale") == "scale"
    assert torch.allclose(module._parameters["scale_unconstrained"].exp(), torch.tensor(2.0))


@shows("pyro.nn.module._Context", "_param_ctx")
def late_writer():
    with pyro.settings.context(module_local_params=True):
        context = Scaled()._pyro_context
        with context:
            assert "_param_ctx" in vars(context)
        assert "_param_ctx" not in vars(context)


def names_in(kind):
    """All names that the methods of a class use."""
    methods = (value.__code__ for value in vars(kind).values() if hasattr(value, "__code__"))
    return {name for code in methods for name in code.co_names}


@shows("pyro.ops.packed.pack", "_pyro_dims")
def packed_dimensions():
    assert packed.pack(torch.ones(3), {-1: "a"})._pyro_dims == "a"


@shows("pyro.ops.rings.LogRing", "_backend")
def ring_backend():
    assert rings.LogRing._backend == "pyro.ops.einsum.torch_log"
    assert "_backend" in names_in(rings.Ring) | names_in(rings.LogRing)


@shows("pyro.param", "_pyro_unconstrained_param")
def subsampled_parameter():
    with pyro.plate("rows", 4, subsample=torch.tensor([1, 3])):
        value = pyro.param("rates", torch.arange(4.0), event_dim=0)
    assert value._pyro_unconstrained_param.shape == (4,)


@shows("pyro.params.param_store.ParamStoreDict", "_constraints", "_params")
def stored_parameters():
    pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    store = pyro.get_param_store()
    assert store._constraints["scale"] is dist.constraints.positive
    assert torch.allclose(store._params["scale"].exp(), torch.tensor(2.0))


@shows("pyro.poutine.enum_messenger.EnumMessenger", "_enumerate_dim")
def enumerated_site():
    with pyro.poutine.enum(first_available_dim=-1):
        trace = poutine.trace(coin).get_trace()
    assert trace.nodes["coin"]["infer"]["_enumerate_dim"] == -1


@shows("pyro.poutine.messenger.Messenger", "_process_message")
def messages():
    class Answered(poutine.messenger.Messenger):
        def _process_message(self, msg):
            msg["value"], msg["done"], msg["stop"] = torch.tensor(3.0), True, True

    with Answered():
        assert float(pyro.sample("x", dist.Normal(0.0, 1.0))) == 3.0


@shows("pyro.poutine.subsample_messenger", "_Subsample")
def subsampling_site():
    def rows():
        with pyro.plate("rows", 4, subsample_size=2):
            pass

    trace = poutine.trace(rows).get_trace()
    assert type(trace.nodes["rows"]["fn"]).__name__ == "_Subsample"


@shows("pyro.primitives.deterministic", "_deterministic")
def computed_site():
    trace = poutine.trace(lambda: pyro.deterministic("x", torch.ones(()))).get_trace()
    assert trace.nodes["x"]["infer"]["_deterministic"]


@shows("threading.RLock", "_is_owned")
def owned_lock():
    lock = threading.RLock()
    assert not lock._is_owned()
    with lock:
        assert lock._is_owned()


@shows("torch.Tensor", "_cdata")
def harmless_read():
    assert torch.Tensor._cdata.__get__ in functions_seen(lambda: torch.ones(1)._cdata)


@shows("torch.autograd.Function", "_forward_cls")
def custom_function():
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

    assert type(Same.apply(torch.ones(1, requires_grad=True)).grad_fn)._forward_cls is Same


@shows("torch.distributions.Distribution", "_validate_args")
def validation():
    kind = torch.distributions.Distribution
    before = kind._validate_args
    try:
        for value in (True, False):
            kind.set_default_validate_args(value)
            assert kind._validate_args is value
    finally:
        kind.set_default_validate_args(before)


@shows("torch.nn.Module", "_buffers")
def buffers():
    layer = nn.BatchNorm1d(2)
    layer._buffers["running_mean"] = torch.ones(2)
    assert layer.running_mean is layer._buffers["running_mean"]


@shows("torch.nn.RNNBase", "_flat_weights", "_flat_weight_refs", "_flat_weights_names")
def recurrent_weights():
    rnn, x = nn.GRU(2, 2), torch.ones(1, 2)
    assert all(w is rnn._parameters[n] for n, w in zip(rnn._flat_weights_names, rnn._flat_weights, strict=True))
    assert all(ref() is w for ref, w in zip(rnn._flat_weight_refs, rnn._flat_weights, strict=True))
    assert isinstance(rnn._flat_weight_refs[0], weakref.ref)
    rnn._flat_weights = [torch.zeros_like(w) for w in rnn._flat_weights]
    assert not rnn(x)[0].any()


def id_of(row):
    return f"{row.owner}.{row.name}"


def files_with(row):
    """The files of the package that use a private name, or the plain one that it is imported under."""
    plain = {plain for owner, name, plain in imported(SOURCES["internals.py"]) if (owner, name) == row[:2]}
    words = re.compile(rf"(?<![A-Za-z0-9]){row.name}\b" if not plain else rf"\b({'|'.join(plain)})\b")
    texts = {path: (PACKAGE / path).read_text() for path in SOURCES if path != "internals.py"}
    return [path for path, text in texts.items() if words.search(text)]


def seen_in(row):
    """The release that a row's name is looked for in now."""
    versions = {"torch": torch.__version__, "pyro": pyro.__version__, "threading": sys.version.split()[0]}
    return f"{row.owner.split('.')[0]} {versions[row.owner.split('.')[0]]}"


@pytest.mark.parametrize("row", RELIED_ON, ids=id_of)
def test_it_does_what_we_rely_on(row):
    try:
        CHECKS[row.owner, row.name]()
    except Exception as error:
        files = ", ".join(files_with(row))
        pytest.fail(
            f"{id_of(row)} ({row.purpose}), last seen in {row.seen}, is not what it was in {seen_in(row)}: "
            f"{type(error).__name__}: {error}; used in {files}"
        )


def test_each_name_has_one_row_and_one_check():
    assert len({row[:2] for row in RELIED_ON}) == len(RELIED_ON)
    assert CHECKS.keys() == {row[:2] for row in RELIED_ON}


@pytest.mark.parametrize("row", RELIED_ON, ids=id_of)
def test_each_name_is_used(row):
    assert files_with(row)


def is_private(dotted):
    """Whether a dotted name of another package goes by an underscore, or through what is called experimental."""
    parts = dotted.split(".")
    own = parts[0] in ("pyrometa", "__future__") or parts[0] in sys.stdlib_module_names
    return not own and any((p.startswith("_") and not p.endswith("__")) or p == "experimental" for p in parts)


def imported(tree):
    """Each (module, name, name it goes by here) of the private imports, and of what is assigned at the top."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            pairs = [(alias.name, alias.asname or alias.name) for alias in node.names]
            yield from ((node.module, name, plain) for name, plain in pairs if is_private(f"{node.module}.{name}"))
        elif isinstance(node, ast.Attribute) and is_private(ast.unparse(node)) and dotted(node):
            yield ast.unparse(node.value), node.attr, assigned(tree, node)


def dotted(node):
    """Whether an expression is a name of torch or Pyro, spelled out."""
    return re.fullmatch(r"(torch|pyro)(\.\w+)+", ast.unparse(node)) is not None


def assigned(tree, node):
    targets = [s.targets[0].id for s in tree.body if isinstance(s, ast.Assign) and s.value is node]
    return targets[0] if targets else ""


def attributes_of_others(trees):
    """Private attributes that are read or written in the package, without those that it defines itself."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name)}
    own |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return {name for name in found - own - DOCUMENTED if name.startswith("_") and not name.endswith("__")}


def test_private_names_are_imported_in_one_file():
    listed = {row[:2] for row in RELIED_ON}
    found = {path: [(m, n) for m, n, _ in imported(tree)] for path, tree in SOURCES.items()}
    assert set(found.pop("internals.py")) <= listed
    allowed = {("torch.distributions.Distribution", "_validate_args")}  # an attribute, as of an object
    assert {path: names for path, names in found.items() if set(names) - allowed} == {}


def test_each_private_attribute_has_a_row():
    trees = [tree for path, tree in SOURCES.items() if path != "internals.py"]
    assert attributes_of_others(trees) - {row.name for row in RELIED_ON} == set()


@pytest.mark.parametrize(
    "source",
    [
        "from pyro.poutine.runtime import _PYRO_STACK",
        "from torch.utils._pytree import tree_map",
        "import torch.utils._pytree as pytree",
        "def f():\n    from torch.fx.experimental import proxy_tensor",
        "x = torch._C._functorch",
        "f(pyro.poutine.runtime._PYRO_STACK)",
    ],
)
def test_a_private_import_is_found(source):
    assert len(list(imported(ast.parse(source)))) > 0


def test_a_private_attribute_is_found():
    trees = [ast.parse("class A:\n    def f(self, m):\n        self._own = m._hooks\n        return self._own, m._own")]
    assert attributes_of_others(trees) == {"_hooks"}
