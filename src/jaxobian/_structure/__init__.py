"""What linear equations do to axes: which output axis can depend on an input axis only along a diagonal."""

from ._axes import Structure as Structure
from ._axes import structure as structure
from ._ties import Digit as Digit
from ._ties import Line as Line
from ._ties import Relation as Relation
from ._ties import compose as compose
from ._ties import join as join
from ._ties import transposed as transposed
from ._ties import within as within
