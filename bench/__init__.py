"""mannbench: benchmark and reproduce memory-augmented neural networks and few-shot learners.

`bench.run(...)` runs cells and returns their records; `bench.load(...)` returns records as a DataFrame. Nothing heavy
is imported before one of them is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.interface import load as load
    from bench.interface import run as run

__version__ = "0.1.0"
__all__ = ["load", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bench import interface

        return getattr(interface, name)
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
