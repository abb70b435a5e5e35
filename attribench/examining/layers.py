"""What a model's layers are called: its modules in the order in which they pass messages."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ..model.driver import Pass, Session
from ..model.driver_list import drivers
from ..model.graphs import GraphBatch
from ..model.integrity import evaluating
from ..model.model import GraphModel


@torch.no_grad()
def layer_names(model: GraphModel, graphs: GraphBatch) -> tuple[str, ...]:
    """Return the qualified name of the module behind each of the L layers; a module that runs twice is there twice.

    Args:
        model: that was examined; it is left as it was found.
        graphs: any that it can run, a single one say.
    """
    session, current = Session(), Pass(graphs)
    names: list[str] = []
    handles: list[RemovableHandle] = []
    of_module = {module: name or type(module).__name__ for name, module in model.named_modules()}

    def see(module: Any, *_: Any) -> None:
        # What is new since the last look is this module's. Layers count their calls in different places: PyG's in
        # propagate(), which may run more than once, relational ones at their output.
        names.extend([of_module[module]] * (len(current.calls) - len(names)))

    found = drivers(model, session)
    with evaluating(model):
        try:
            for driver in found:
                driver.attach(handles)
                handles.append(driver.layer.register_forward_hook(see))
                propagated = getattr(driver.layer, "register_propagate_forward_hook", None)
                if propagated is not None:  # a model may call forward() by name, which runs no other hook
                    handles.append(propagated(see))
            state = model.encode(graphs)
            session.current = current
            model.decode(graphs, state)
        finally:
            session.current = None
            for handle in handles:
                handle.remove()
            for driver in found:
                driver.reset()
    return tuple(names)
