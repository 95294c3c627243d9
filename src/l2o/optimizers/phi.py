"""φ with a leading task axis: one set of meta-parameters for each task of a batch, as evolution strategies need it.

Shapes: B tasks, P coordinates.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import Observation, State, UpdateRule
from l2o.optimizers.kernels.dispatch import without_kernels
from l2o.optimizers.preprocessing import Preprocessing
from l2o.optimizers.recurrent_cells import WrittenOut

Given = Mapping[int, Tensor]
"""φ of the tasks, (B, …), by the `id` of the parameter whose place it takes. Tied parameters are one parameter."""


def trainable(rule: UpdateRule) -> dict[str, nn.Parameter]:
    """Give the parameters of a rule that meta-training may change, by name. Frozen ones are left out."""
    return {name: parameter for name, parameter in rule.named_parameters() if parameter.requires_grad}


@contextmanager
def with_phi(rule: UpdateRule, phi: Mapping[str, Tensor]) -> Iterator[None]:
    """Give every task a φ of its own within this block: task b of every call to the rule is served by φ_b.

    `phi` has (B, *shape) for the name of each parameter that differs between the tasks; a parameter that is not named
    is the same for all of them. Everything that reads φ reads the task's own: `forward`, `init_state` with learned
    initial states, and the rules inside a `Partitioned`. The result equals a loop over the tasks, and the rule's own
    parameters are back when the block ends, also by an exception. The tensors may require gradients.

    A rule that declares `batched_phi` finds its parameters with the leading axis and deals with them itself. Any other
    rule is called through `torch.func.vmap`, with one task at a time in its tensors' leading axis, so that it need not
    know of this. Raises ValueError for a name or a shape that is not the rule's.
    """
    given = _by_identity(rule, phi)
    with ExitStack() as stack:
        _bind(rule, given, stack, set())
        yield


def _by_identity(rule: UpdateRule, phi: Mapping[str, Tensor]) -> Given:
    known = dict(rule.named_parameters())
    given: dict[int, Tensor] = {}
    for name, tensor in phi.items():
        if name not in known:
            raise ValueError(f"with_phi: {rule.label} has no parameter {name!r}, it has {', '.join(known) or 'none'}")
        if tuple(tensor.shape[1:]) != tuple(known[name].shape) or not tensor.ndim:
            wanted = ("tasks", *known[name].shape)
            raise ValueError(f"with_phi: {name} must have the shape {wanted}, got {tuple(tensor.shape)}")
        given[id(known[name])] = tensor
    counts = sorted({len(tensor) for tensor in given.values()})
    if len(counts) > 1:
        raise ValueError(f"with_phi: all parameters must have φ for the same number of tasks, got {counts}")
    return given


Reader = UpdateRule | Preprocessing
"""What is called with the tensors of all tasks, and reads φ."""


def _is_reader(module: nn.Module) -> TypeGuard[Reader]:
    return isinstance(module, UpdateRule | Preprocessing)


def _bind(reader: Reader, given: Given, stack: ExitStack, bound: set[nn.Module]) -> None:
    """Put φ into a reader and into the readers inside it, until the stack unwinds. `bound` have theirs already."""
    if reader in bound or not any(id(parameter) in given for parameter in reader.parameters()):
        return  # what is the same for all tasks serves them as ever
    bound.add(reader)
    if reader.batched_phi:
        own, inner = _inside(reader)
        stack.enter_context(_in_place(own, given))
        for other in inner:
            _bind(other, given, stack, bound)
    else:
        stack.enter_context(_mapped(reader, given))


def _inside(module: nn.Module) -> tuple[list[nn.Module], list[Reader]]:
    """Give the module and those inside it that it calls itself, and the readers among them, which take care of theirs.

    What lies inside such a reader is left out.
    """
    own, readers = [module], []
    for child in module.children():
        if _is_reader(child):
            readers.append(child)
        else:
            deeper = _inside(child)
            own += deeper[0]
            readers += deeper[1]
    return own, readers


@contextmanager
def _in_place(modules: Iterable[nn.Module], given: Given) -> Iterator[None]:
    """Put tensors in the place of parameters. The order of a module's parameters stays as it is."""
    places = [(module._parameters, key) for module in modules for key in module._parameters]
    places = [(parameters, key, parameters[key]) for parameters, key in places if id(parameters[key]) in given]
    try:
        for parameters, key, parameter in places:
            parameters[key] = given[id(parameter)]  # type: ignore[assignment]  # a tensor serves as well
        yield
    finally:
        for parameters, key, parameter in places:
            parameters[key] = parameter


@contextmanager
def _mapped(reader: Reader, given: Given) -> Iterator[None]:
    """Call a reader through vmap, with one task and its φ at a time."""
    keys = [id(parameter) for parameter in reader.parameters() if id(parameter) in given]
    phi, modules = [given[key] for key in keys], [*reader.modules()]

    def over_tasks(method: Callable[..., Any], *arguments: Any) -> Any:
        def one_task(own: list[Tensor], *arguments: Any) -> Any:
            with without_kernels(), WrittenOut(), _in_place(modules, dict(zip(keys, own, strict=True))):
                return pytree.tree_map(lambda value: value[0], method(*_with_axis(arguments)))

        return vmap(one_task)(phi, *arguments)

    if isinstance(reader, UpdateRule):
        forward, init_state = reader.forward, reader.init_state

        def mapped(seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
            return over_tasks(lambda seen, state: forward(seen, state, layout), seen, state)

        def mapped_init(theta: Tensor, layout: Layout) -> State:
            return over_tasks(lambda own: init_state(own, layout), theta)

        methods = {"forward": mapped, "init_state": mapped_init}
    else:
        features = reader.forward
        methods = {"forward": lambda grad: over_tasks(features, grad)}
    with _methods(reader, methods):
        yield


def _with_axis(arguments: Any) -> Any:
    return pytree.tree_map(lambda value: value[None], arguments)


@contextmanager
def _methods(reader: nn.Module, methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Let the reader's own methods stand behind others, which are attributes of this one object."""
    for name, method in methods.items():
        object.__setattr__(reader, name, method)
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(reader, name)
