"""The vocabulary of the table of operators: what can be said of an operation, and how its axes belong together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto


class Fact(Flag):
    """What can be said of an operation without looking at a model."""

    NONE = 0
    # ---- elements of operands, rearranged
    MOVE = auto()  #: elements of one operand: reordered, repeated, retyped, none of them left out
    CAST = auto()  #: to another type or device
    EXPANSION = auto()  #: repeats along axes of size one
    SELECTION = auto()  #: takes a part that the arguments name
    SPLIT = auto()  #: gives several parts
    ASSEMBLY = auto()  #: puts values (and padding) together
    SHUFFLE = auto()  #: all elements of its operands in another order, in memory of its own
    PADDING = auto()  #: a value with a constant around it
    SCATTER = auto()  #: puts values along an axis at the places that an index names
    MASKABLE = auto()  #: indices may be masks: the size of what they pick depends on values
    INDEXING = auto()  #: elements at the places that indices name
    CHOICE = auto()  #: a mask or an index says which operand an element comes from
    LOOKUP = auto()  #: an index says which elements are taken
    PICK = auto()  #: an index says, for each element of the result, which one it is along an axis
    TABLE = auto()  #: rows of a learned table
    SORTED = auto()  #: elements in the order of their size, or chosen by it
    VIEW = auto()  #: another look at the same memory, always
    IDENTITY = auto()  #: computes nothing
    DETACHES = auto()  #: no gradient passes
    COPY = auto()  #: the same value in memory of its own
    LOOKS_AT_STRIDES = auto()
    # ---- values from nothing
    COUNTER = auto()  #: 0, 1, 2, ...
    FILL = auto()  #: one number everywhere
    ZEROS = auto()
    # ---- arithmetic
    POINTWISE = auto()  #: an element comes from the elements at its place (torch's tag says it of most)
    SIGN = auto()  #: the same with the other sign
    RECONSTRUCTION = auto()  #: its first operand, for which another stands as far as relevance goes
    GUARD = auto()  #: with a small number it keeps a divisor from being zero
    INTERVAL = auto()  #: an interval along one axis
    KEEPS_ZERO = auto()  #: a pointwise function of one operand, zero at zero
    SUM = auto()  #: of two terms
    SCALING = auto()  #: product or quotient, element by element
    TERM_FIRST = auto()  #: a term and a product: the factors are the second and the third operand
    CONTRACTION = auto()  #: matrix product
    PRODUCT = auto()  #: of its first two operands as matrices, with no term
    MAP = auto()  #: by a weight and a bias
    REDUCTION = auto()  #: axes named by ``dim`` go, or all
    AVERAGE = auto()  #: sum or mean: linear
    STATISTIC = auto()  #: what it gives may be a statistic of an operand
    SHARES_STATISTICS = auto()  #: one kernel, whose other results its derivative needs
    CUMULATIVE = auto()
    MIXER = auto()  #: of one operand, mixes tokens
    # ---- functions of one variable
    SOFTMAX = auto()
    LOG_SOFTMAX = auto()
    SQUASHING = auto()  #: positive whatever it is given: a weight, not a signal
    CURVED = auto()  #: no polynomial
    FUNCTION_END = auto()  #: what a function written out can end in
    HOMOGENEOUS = auto()  #: of some degree: the identity rule is Euler's theorem
    ACTIVATION = auto()
    SINUSOID = auto()
    ROUNDING = auto()  #: to whole numbers: flat but for its steps
    # ---- truth values and places
    NEGATION = auto()  #: of a mask
    CONJUNCTION = auto()  #: of masks
    BITS = auto()  #: of integers
    COMPARISON = auto()  #: is it equal, or not
    PLACE = auto()  #: counted from the start of an axis
    # ---- spelling
    ASSERTION = auto()  #: a check that export leaves behind
    FORMULA = auto()  #: many operations under one name: a contraction written as a formula, a cell of a recurrence
    LOOP = auto()  #: goes through tokens one by one
    IN_PLACE = auto()  #: has a form that writes the same bits in the place of its first operand
    FRESH = auto()  #: its result is memory of its own, whatever its operands are


class Axes(Enum):
    """How axes of operands and result belong together; each is a function of `lrp_fx.ir.axes`."""

    ALIGNED = "operands are broadcast against each other from the right"
    REGROUPED = "row-major: the same sequence of elements in another shape"
    UNITS = "axes of size one come or go"
    PERMUTED = "the same axes in another order"
    REPEATED = "copies of a whole axis stand in front of it"
    REDUCED = "axes named by dim go"
    ALONG = "axes stay; along dim elements meet"
    LAST_ALONG = "axes stay; along the last ones elements meet"
    MATRICES = "axes stay; along the last two, places matter"
    CUT = "axes stay; along dim some elements are left out, added or put elsewhere"
    STAYING = "axes stay, longer or shorter; elements may meet along all of them"
    CONVOLVED = "examples stay apart; channels are mapped, places meet"
    WRITTEN = "the axes of what is written into"
    ADDED_ROWS = "rows are added at places that an index names"
    INDEXED = "several indices, each along an axis"
    STRIDED = "whatever strides say"
    SELECTED = "one axis goes: one element is taken along it"
    PART = "one of several results"
    CONTRACTED = "matrix product"
    MAPPED = "the last axis is mapped by a weight"
    JOINED = "operands behind each other"
    STACKED = "operands beside each other along a new axis"
    ATTENTION = "queries, keys and values"
    LOOKED_UP = "rows of a table at the places of an index"


@dataclass(frozen=True)
class Operator:
    """One row: an operation's name, what is known of it, and how its axes belong together (None: not known).

    ``behind_bias``: for a map by weights, how many axes of the result follow the one that its bias runs along.
    ``same_as``: the operation, as ``name.overload``, of which this is another name. ``holds``: the arguments whose
    elements stand in the result, where it is put together of some.
    """

    name: str
    facts: Fact = Fact.NONE
    axes: Axes | None = None
    behind_bias: int | None = None
    same_as: str | None = None
    holds: tuple[str, ...] = ()
