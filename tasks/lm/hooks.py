"""Reading and replacing activations at any module of a transformers model: the door to this package's work on hooks.

A hook is a module's dotted name, which stands for its output, or the name with ``:input`` behind it. What a module
takes or gives is read as one activation per token: the first tensor of a tuple, heads side by side.
"""

from tasks.lm.listing import HookInfo, hook_width, list_hooks
from tasks.lm.modules import find_module, hook_names
from tasks.lm.names import parse_hook
from tasks.lm.prune import prune_after
from tasks.lm.watch import capture, replace

__all__ = [
    "HookInfo",
    "capture",
    "find_module",
    "hook_names",
    "hook_width",
    "list_hooks",
    "parse_hook",
    "prune_after",
    "replace",
]
