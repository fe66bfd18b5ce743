"""Labels: one a text, or several; checked, and as plain Python values."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

_HALF = re.compile("[\ud800-\udfff]")

Label: TypeAlias = "str | int | float | bool"
Labels: TypeAlias = "tuple[Label, ...]"
"""Of one text that may have several: their names; or 0 or 1 for each class."""
LabelForm: TypeAlias = Literal["single", "names", "rows"]
"""How labels are given: one a text; a list of names a text; or a row of 0 and 1 a text, with a place for each class."""


def plain(label: Any) -> Any:
    """Numpy and torch values as Python's own; lists and the like of labels as tuples."""
    if isinstance(label, np.generic | np.ndarray) or type(label).__module__ == "torch":
        label = label.tolist()
    if isinstance(label, list | tuple | set | frozenset):
        items = [plain(item) for item in label]
        return tuple(sorted(items, key=str) if isinstance(label, set | frozenset) else items)
    return label


def label_form(labels: Sequence[Any]) -> LabelForm:
    """In which form labels are that were checked (see `check_labels`)."""
    if not isinstance(labels[0], tuple):
        return "single"
    return "names" if any(isinstance(name, str) for names in labels for name in names) else "rows"


def check_text(text: Any, name: str) -> None:
    """Fails on a string that has half a character in it: no tokenizer or file takes that.

    Raises:
        ValueError: It has.
    """
    if isinstance(text, str) and (found := _HALF.search(text)):
        raise ValueError(
            f"{name}: {text[:40]!r} has a lone surrogate, {found[0]!r}, half of a character; take it out, or read the file in "
            "its right encoding"
        )


def check_labels(labels: Sequence[Any], name: str) -> None:
    """Fails on labels that are missing, of several types, or no labels at all; they are plain (see `plain`).

    Raises:
        ValueError: A label is missing or has half a character; they are of several types; rows differ in length or hold
            something else than 0 and 1.
        TypeError: Something that is no label.
    """
    for row, label in enumerate(labels):
        if is_missing(label):
            raise ValueError(f"{name}: label in row {row} is missing ({label}); remove the row or label it")
        if not isinstance(label, str | int | float | tuple):
            raise TypeError(
                f"{name}: label in row {row} is {label!r} ({type(label).__name__}); expected a string or number, or, for "
                "several labels a text, a list of names or a row of 0 and 1"
            )
        for one in label if isinstance(label, tuple) else (label,):
            check_text(one, f"{name}: label in row {row}")
    kinds = Counter("list" if isinstance(label, tuple) else type(label).__name__ for label in labels)
    if len(kinds) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ValueError(f"{name} has labels of several types ({found}); convert them to one type")
    if "list" not in kinds:
        return
    if label_form(labels) == "names":
        _check_names(labels, name)
    else:
        _check_rows(labels, name)


def _check_names(labels: Sequence[Labels], name: str) -> None:
    for row, names in enumerate(labels):
        for one in names:
            if is_missing(one):
                raise ValueError(f"{name}: a label in row {row} is missing ({list(names)}); remove it")
            if not isinstance(one, str):
                raise TypeError(f"{name}: labels in row {row} are {list(names)}; expected names, all of them strings")
        if len(set(names)) < len(names):
            raise ValueError(f"{name}: labels in row {row} are {list(names)}; expected each name once")


def _check_rows(labels: Sequence[Labels], name: str) -> None:
    widths = {len(values) for values in labels}
    if widths == {0}:
        raise ValueError(f"{name} has no label at all: every list is empty")
    for row, values in enumerate(labels):
        if not all(isinstance(value, int | float) and value in (0, 1) for value in values):
            raise ValueError(
                f"{name}: labels in row {row} are {list(values)}; expected a list of names (strings), or a row of 0 and 1"
            )
        if len(values) != len(labels[0]):
            raise ValueError(
                f"{name}: labels in row {row} are {len(values)} values, and {len(labels[0])} in row 0; expected as many"
            )
    if widths == {1}:
        raise ValueError(f"{name} has rows of a single 0 or 1; expected a value for each class, or one label a text")


def is_missing(label: Any) -> bool:
    """Whether it is what stands for nothing: None, NaN, or what pandas has for them."""
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return True
    return type(label).__name__ in ("NAType", "NaTType")


def distinct(labels: Iterable[Any]) -> list[Any]:
    """What the classes are called by default: the distinct labels, sorted; for rows their positions."""
    given = list(labels)
    form = label_form(given)
    if form == "single":
        return sorted(set(given))
    return sorted({name for names in given for name in names}) if form == "names" else list(range(len(given[0])))


def indicator(labels: Sequence[Labels], known: Sequence[Label], form: LabelForm, name: str) -> npt.NDArray[np.int64]:
    """Rows of 0 and 1, shape (n, classes), of texts with several labels each.

    Raises:
        ValueError: A name that is not among the known ones, or rows that are longer or shorter than these.
    """
    if form == "rows":
        if len(labels[0]) != len(known):
            raise ValueError(
                f"{name} has rows of {len(labels[0])} labels; the classifier knows {len(known)}: {list(known)}"
            )
        return np.array(labels, dtype=np.int64)
    place = {label: position for position, label in enumerate(known)}
    unknown = sorted({one for names in labels for one in names if one not in place}, key=str)
    if unknown:
        raise unknown_labels(name, unknown, known)
    rows = np.zeros((len(labels), len(known)), dtype=np.int64)
    for row, names in enumerate(labels):
        rows[row, [place[one] for one in names]] = 1
    return rows


def unknown_labels(name: str, unknown: Sequence[Any], known: Sequence[Label]) -> ValueError:
    """What to raise for labels that a classifier doesn't know."""
    return ValueError(f"{name} has labels that the classifier doesn't know: {list(unknown)}; it knows {list(known)}")


def weights_by_class(weights: Mapping[Any, Any], known: Sequence[Label]) -> dict[int, Any]:
    """A ``class_weight`` by label as one by class index. Labels may be given as text, as they are in JSON.

    Raises:
        ValueError: A key that is no label.
    """
    places: dict[Any, int] = {str(label): place for place, label in enumerate(known)}
    if all(isinstance(label, str) for label in known):
        places |= {place: place for place in range(len(known))}  # as labels of training data may be positions too
    places |= {label: place for place, label in enumerate(known)}
    unknown = [key for key in weights if plain(key) not in places]
    if unknown:
        raise ValueError(f"class_weight has the keys {unknown}; expected labels, and these are {list(known)}")
    return {places[plain(key)]: weight for key, weight in weights.items()}
