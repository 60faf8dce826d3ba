"""The checks of signatures under pytest, made cheap: `jaxtyping.jaxtyped` takes more time than most functions do.

pytest's option --jaxtyping-packages decorates each function and dataclass of the packages with `jaxtyping.jaxtyped`.
`check_cheaply` replaces that by `checked`, which checks the same annotations by beartype.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ForwardRef, Literal, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

JAXTYPED = jaxtyping.jaxtyped
CHECK = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))  # raises what JAXTYPED raises


def check_cheaply() -> None:
    """Let --jaxtyping-packages decorate with `checked` what is imported from now on."""
    jaxtyping.jaxtyped = checked  # type: ignore[assignment]


def checked(definition: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """The function or dataclass, whose arguments and results are checked at each call. Without one: the decorator.

    A signature without shapes is left to beartype alone. In one with shapes their axes are bound for the time
    of a call, and printed if a check fails. `jaxtyping.jaxtyped` itself is needed where an axis is named by an argument
    ("{frames}"), for hints that are strings, and for generators.
    """
    if definition is None:
        return functools.partial(checked, typechecker=typechecker)
    again = functools.partial(checked, typechecker=typechecker)
    if inspect.isclass(definition):
        if dataclasses.is_dataclass(definition) and "__init__" in vars(definition):
            definition.__init__ = again(definition.__init__)  # type: ignore[misc]
        return definition
    if isinstance(definition, classmethod | staticmethod):
        return type(definition)(again(definition.__func__))
    if isinstance(definition, property):
        parts = (definition.fget, definition.fset, definition.fdel)
        return property(*(part and again(part) for part in parts), doc=definition.__doc__)
    parts = [part for hint in definition.__annotations__.values() for part in parts_of(hint)]
    shapes = [part.dim_str for part in parts if inspect.isclass(part) and issubclass(part, jaxtyping.AbstractArray)]
    named = any("{" in shape for shape in shapes) or any(isinstance(part, str | ForwardRef) for part in parts)
    if named or (shapes and inspect.isgeneratorfunction(definition)):
        return JAXTYPED(definition, typechecker=typechecker)
    function = CHECK(definition)

    @functools.wraps(definition)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (definition if jaxtyping.config.jaxtyping_disable else function)(*args, **kwargs)

    @functools.wraps(definition)
    def call_with_axes(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return definition(*args, **kwargs)
        with JAXTYPED("context"):
            try:
                return function(*args, **kwargs)
            except jaxtyping.TypeCheckError:
                jaxtyping.print_bindings()
                raise

    return call_with_axes if shapes else call


def parts_of(hint: Any) -> list[Any]:
    """The hints of which an annotation consists, itself among them."""
    kind = get_origin(hint)
    inner = hint if isinstance(hint, list | tuple) else () if kind is Literal else get_args(hint)
    return [hint, *(part for each in (inner[:1] if kind is Annotated else inner) for part in parts_of(each))]
