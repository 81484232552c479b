"""Which (co)tangents to push, how many at once, and where the results land.

Seeds live on one side of a linear map (its inputs in forward mode, its outputs in reverse); what comes out on the
other side fills the blocks of J. Seeding the standard basis takes a pass an element. Where an axis is tied, one pass
seeds every element along it at once.
"""

from .._trace._ends import Ends as Ends
from .._trace._ends import Side as Side
from ._groups import Cell as Cell
from ._groups import Group as Group
from ._groups import Landing as Landing
from ._groups import groups as groups
from ._groups import plain as plain
from ._runs import Run as Run
from ._runs import even as even
from ._seeds import MOST_INDEXED as MOST_INDEXED
from ._seeds import UNROLLED_CHUNKS as UNROLLED_CHUNKS
from ._seeds import Classes as Classes
from ._seeds import Seeds as Seeds
